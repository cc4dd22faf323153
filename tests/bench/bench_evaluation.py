"""What an evaluation adds to the time that its policy needs, against a policy of fixed latency."""

from __future__ import annotations

import asyncio
import tempfile
import time

from tests.bench.support import TASK, SlottedPolicy, examples, teacher
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.evaluation.run import evaluate
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.storage.base import open_storage

SLOTS, LATENCY_S, SAMPLES = 64, 0.2, 600


def run() -> dict[str, float]:
    return asyncio.run(_evaluate())


async def _evaluate() -> dict[str, float]:
    scenes = examples(SAMPLES)
    policy, environment = SlottedPolicy(teacher(scenes), SLOTS, lambda _: LATENCY_S), ZoomEnvironment()
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu = time.monotonic(), time.process_time()
        await evaluate(
            scenes,
            Stepper(policy, environment, TASK),
            LocalReward(),
            RewardConfig(),
            storage=open_storage(folder),
            prefix="runs/bench/evaluation",
            seed=0,
            max_in_flight=2 * SLOTS,
            on_sample=lambda *_: None,
        )
        wall, cpu = time.monotonic() - begin, time.process_time() - cpu
    await environment.close()
    ideal = policy.samples * LATENCY_S / SLOTS
    return {"overhead": wall / ideal - 1, "cpu_ms_per_sample": 1e3 * cpu / SAMPLES}
