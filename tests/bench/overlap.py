"""Steps of multi-turn GRPO under long-tailed latencies: a barrier after every turn, none, and rollouts beside updates.

The producer, the rollouts and the environment are real; the policy answers after a time drawn from a long-tailed
distribution, and the learner takes a fixed time for a step and then publishes a version.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from tests.bench.bench_rollout import latencies, with_barrier
from tests.bench.support import TASK, SlottedPolicy, examples, teacher
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.policy.base import PolicyInfo
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.current import CurrentWeights, write_current
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.producer import Producer

STEPS, WARM_UP = 8, 2
PROMPTS, GROUP = 8, 8
UPDATE_S = 0.4
"""What the learner takes for a step, about as long as the rollouts of one without their tail."""


def run(folder: Path) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    barrier = asyncio.run(_turn_barrier()) + UPDATE_S
    lags = [asyncio.run(_Run(folder / f"lag-{lag}", lag).step_s()) for lag in (0, 1)]
    figures = {"tailed_step_turn_barrier_s": barrier}
    figures |= {f"tailed_step_lag_{lag}_s": seconds for lag, seconds in enumerate(lags)}
    return figures | {f"tailed_step_speedup_lag_{lag}": barrier / seconds for lag, seconds in enumerate(lags)}


async def _turn_barrier() -> float:
    """Seconds of the rollouts of one step, all of whose conversations wait for each other after every turn."""
    scenes, drawn = examples(PROMPTS), latencies()
    policy = SlottedPolicy(teacher(scenes), PROMPTS * GROUP, lambda number: drawn[number % len(drawn)])
    environment = ZoomEnvironment()
    stepper = Stepper(policy, environment, TASK)
    times = []
    for step in range(STEPS):
        starts = [await stepper.start(scenes[k % PROMPTS], (step, k)) for k in range(PROMPTS * GROUP)]
        begin = time.monotonic()
        await with_barrier(stepper, starts)
        times.append(time.monotonic() - begin)
    await environment.close()
    return fmean(times[WARM_UP:])


class _Versioned(SlottedPolicy):
    """Takes weights in no time."""

    version = 0

    async def info(self) -> PolicyInfo:
        return replace(await self.inner.info(), version=self.version)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        self.version = version
        return await self.info()


class _Nothing:
    """A reward that costs nothing."""

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        return [Score(0.0, {}, RewardOutcome.WRONG) for _ in items]

    async def close(self) -> None: ...


class _Run:
    def __init__(self, folder: Path, lag: int) -> None:
        self._layout = RunLayout(open_storage(str(folder)), "bench")
        self._committed: asyncio.Queue[None] = asyncio.Queue()
        """One item for each step whose groups are there."""
        # The script has no tokens to train on, so that no group is chosen; none is replaced either.
        self._config = GrpoConfig(
            prompts=PROMPTS,
            group_size=GROUP,
            steps=STEPS,
            max_policy_lag=lag,
            max_in_flight=PROMPTS * GROUP,
            max_refill=0,
        )

    async def step_s(self) -> float:
        """Mean seconds between the ends of two updates."""
        storage = self._layout.storage
        images = ImageStore(storage)
        scenes = examples(PROMPTS)
        known = [replace(scene, images=(images.put(scene.images[0].data or b""),)) for scene in scenes]
        drawn = latencies()
        policy = _Versioned(teacher(scenes), PROMPTS * GROUP, lambda number: drawn[number % len(drawn)])
        environment = ZoomEnvironment()
        producer = Producer(
            self._config,
            TASK,
            RewardConfig(),
            Wired(policy, environment, _Nothing()),
            examples=known,
            layout=self._layout,
            images=images,
            seed=0,
            on_step=lambda *_: self._committed.put_nowait(None),
        )
        learning = asyncio.create_task(self._learn())
        await producer.run()
        ends = await learning
        await environment.close()
        return (ends[-1] - ends[WARM_UP - 1]) / (STEPS - WARM_UP)

    async def _learn(self) -> list[float]:
        """Publish a version `UPDATE_S` after the groups of each step are there; returns when."""
        ends = []
        for step in range(STEPS):
            await self._committed.get()
            await asyncio.sleep(UPDATE_S)
            wanted = CurrentWeights(step + 1, "none", "0" * 64)
            await asyncio.to_thread(write_current, self._layout.storage, self._layout.weights_current, wanted)
            ends.append(time.monotonic())
        return ends
