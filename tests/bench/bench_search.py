"""Tree search against a policy of fixed latency: how busy it keeps the engine, and what a turn costs."""

from __future__ import annotations

import asyncio
import tempfile
import time

from tests.bench.support import TASK, SlottedPolicy, examples, served, teacher
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.policy.base import Policy
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.storage.base import open_storage

LATENCY_S = 0.25
ROUNDS = 24
"""Every slot serves about this many samples."""


def run() -> dict[str, float]:
    scenes = examples(240)
    figures: dict[str, float] = {}
    for slots in (10, 64, 256):
        policy = SlottedPolicy(teacher(scenes), slots, lambda _: LATENCY_S)
        cpu = time.process_time()
        asyncio.run(_search(policy, scenes, slots * ROUNDS // 10, in_flight=2 * slots))
        figures[f"utilisation_{slots}"] = policy.utilisation()
        figures["cpu_ms_per_turn"] = 1e3 * (time.process_time() - cpu) / policy.samples
    policy = SlottedPolicy(teacher(scenes), 64, lambda _: LATENCY_S)
    asyncio.run(_through_grpc(policy, scenes, 64 * ROUNDS // 10))
    figures["utilisation_grpc_64"] = policy.utilisation()
    alone = SlottedPolicy(teacher(scenes), 256, lambda _: LATENCY_S)
    begin = time.monotonic()
    asyncio.run(_search(alone, scenes, 8, in_flight=1))
    figures["rounds_per_tree"] = (time.monotonic() - begin) / LATENCY_S / 8
    return figures


async def _search(policy: Policy, scenes: list, trees: int, *, in_flight: int) -> None:
    config = SearchConfig(
        simulations=3,
        children=3,
        rollouts_per_child=1,
        dedup_radius_px=3,
        max_depth=4,
        rollout_max_steps=3,
        trees_in_flight=in_flight,
    )
    environment = ZoomEnvironment()
    search = TreeSearch(Stepper(policy, environment, TASK), LocalReward(), config, RewardConfig(), seed=0)
    wanted = [scenes[k % len(scenes)] for k in range(trees)]
    # The same scene may be searched twice; its journal entry may not.
    from dataclasses import replace

    wanted = [replace(example, example_id=f"{example.example_id}-{k}") for k, example in enumerate(wanted)]
    with tempfile.TemporaryDirectory() as folder:
        await search_dataset(
            wanted,
            search,
            policy="bench",
            storage=open_storage(folder),
            prefix="runs/bench/search/0",
            on_progress=lambda _: None,
        )
    await environment.close()


async def _through_grpc(policy: SlottedPolicy, scenes: list, trees: int) -> None:
    async with served(policy, "scripted-bench") as address:
        client = PolicyClient(address, "scripted-bench")
        await _search(client, scenes, trees, in_flight=128)
        await client.close()
