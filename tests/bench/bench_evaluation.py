"""What an evaluation adds to the time that its policy needs, against a policy of fixed latency with 64 slots.

The raw loop waits for the policy's answers of the same conversations and does nothing else: no crop, no reward,
no record. With as many conversations as slots, whatever happens between two turns leaves a slot empty; with twice as
many, as a recipe has it, it does not.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from statistics import median

from tests.bench.support import TASK, SlottedPolicy, examples, teacher
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import evaluate
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.storage.base import open_storage

SLOTS, LATENCY_S, SAMPLES, ROUNDS = 64, 0.2, 600, 3


def run() -> dict[str, float]:
    return asyncio.run(_measure())


async def _measure() -> dict[str, float]:
    scenes = examples(SAMPLES)
    await _evaluate(scenes[:SLOTS], SLOTS)
    overheads: dict[str, list[float]] = {}
    costs: list[float] = []
    for _ in range(ROUNDS):
        for name, in_flight in (("overhead", 2 * SLOTS), ("overhead_tight", SLOTS)):
            begin, cpu = time.monotonic(), time.process_time()
            records = await _evaluate(scenes, in_flight)
            wall, cpu = time.monotonic() - begin, time.process_time() - cpu
            raw = await _raw_loop([record.turns for record in records], in_flight)
            overheads.setdefault(name, []).append(wall / raw - 1)
            costs.append(1e3 * cpu / SAMPLES)
    return {name: median(values) for name, values in overheads.items()} | {"cpu_ms_per_sample": median(costs)}


async def _evaluate(scenes: Sequence[Example], in_flight: int) -> list[SampleRecord]:
    policy, environment = SlottedPolicy(teacher(scenes), SLOTS, lambda _: LATENCY_S), ZoomEnvironment()
    with tempfile.TemporaryDirectory() as folder:
        records = await evaluate(
            scenes,
            Stepper(policy, environment, TASK),
            LocalReward(),
            RewardConfig(),
            storage=open_storage(folder),
            prefix="runs/bench/evaluation",
            seed=0,
            max_in_flight=in_flight,
            on_sample=lambda _: None,
        )
    await environment.close()
    return records


async def _raw_loop(turns: Sequence[int], in_flight: int) -> float:
    """Seconds for conversations of so many turns each."""
    conversations, slots = asyncio.Semaphore(in_flight), asyncio.Semaphore(SLOTS)

    async def one(count: int) -> None:
        async with conversations:
            for _ in range(count):
                async with slots:
                    await asyncio.sleep(LATENCY_S)

    begin = time.monotonic()
    await asyncio.gather(*map(one, turns))
    return time.monotonic() - begin
