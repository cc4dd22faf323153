"""Asynchronous conversations against a barrier after every turn, under long-tailed latencies."""

from __future__ import annotations

import asyncio
import random
import time
from functools import partial

from tests.bench.support import TASK, SlottedPolicy, examples, teacher
from vigorl_lib.domain.trajectory import Prefix
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.rollout.run import rollout_many, run_to_end
from vigorl_lib.rollout.step import Stepper

CONVERSATIONS, IN_FLIGHT = 256, 64
MEDIAN_S, SIGMA = 0.05, 1.0
"""Log-normal latencies of one turn: the slowest per cent takes ten times the median."""


def latencies() -> list[float]:
    """Seconds of as many turns as all conversations may have."""
    rng = random.Random(0)
    return [MEDIAN_S * rng.lognormvariate(0.0, SIGMA) for _ in range(CONVERSATIONS * 8)]


def run() -> dict[str, float]:
    free, barrier = asyncio.run(_both())
    return {"asynchronous_s": free, "turn_barrier_s": barrier, "speedup_over_turn_barrier": barrier / free}


async def _both() -> tuple[float, float]:
    scenes, drawn = examples(64), latencies()
    times = []
    for how in (_asynchronous, with_barrier):
        policy = SlottedPolicy(teacher(scenes), IN_FLIGHT, lambda number: drawn[number % len(drawn)])
        environment = ZoomEnvironment()
        stepper = Stepper(policy, environment, TASK)
        starts = [await stepper.start(scenes[k % 64], (0, k)) for k in range(CONVERSATIONS)]
        begin = time.monotonic()
        await how(stepper, starts)
        times.append(time.monotonic() - begin)
        await environment.close()
    return times[0], times[1]


async def _asynchronous(stepper: Stepper, starts: list[Prefix]) -> None:
    jobs = (partial(run_to_end, stepper, p, trajectory_id=str(k), example_id="") for k, p in enumerate(starts))
    async for _ in rollout_many(jobs, max_in_flight=IN_FLIGHT):
        pass


async def with_barrier(stepper: Stepper, starts: list[Prefix]) -> None:
    """Conversations in parts of `IN_FLIGHT`, each part at the pace of its slowest turn."""
    for first in range(0, len(starts), IN_FLIGHT):
        active = starts[first : first + IN_FLIGHT]
        while active:
            steps = await asyncio.gather(*(stepper.step(prefix, 1) for prefix in active))
            active = [successors[0] for successors in steps if successors[0].stop is None]
