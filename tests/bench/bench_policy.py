"""What the RPC adds to the embedded engine: throughput, latency, and CPU per request."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.bench.support import examples, served, teacher
from tests.bench.tiny import tiny_model
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.jobs.local import Services
from vigorl_lib.policy.base import Policy, Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.engines import open_policy

REQUESTS, CONCURRENCY, EMPTY_REQUESTS = 192, 64, 2000
SAMPLING = Sampling(max_tokens=32, stop=())


def run() -> dict[str, float]:
    scenes = examples(64)
    model = tiny_model()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.launch("policy", "policy", {"policy": {"name": "tiny", "model": str(model)}})
        address = services.wait_ready("policy")
        return asyncio.run(_measure(scenes, str(model), address)) | asyncio.run(_empty(scenes))


async def _measure(scenes: list[Example], model: str, address: str) -> dict[str, float]:
    here = open_policy(PolicyConfig(name="tiny", model=model))
    there = PolicyClient(address, "tiny")
    rates: dict[str, list[float]] = {"here": [], "there": []}
    latencies: dict[str, list[float]] = {"here": [], "there": []}
    for policy in (here, there):
        await _load(policy, scenes)
    for _ in range(3):
        for name, policy in (("here", here), ("there", there)):
            begin = time.perf_counter()
            tokens = await _load(policy, scenes)
            rates[name].append(tokens / (time.perf_counter() - begin))
            for scene in scenes[:12]:
                begin = time.perf_counter()
                await _ask(policy, scene, 0)
                latencies[name].append(time.perf_counter() - begin)
    await here.close()
    await there.close()
    return {
        "tokens_per_s_embedded": max(rates["here"]),
        "tokens_per_s_service": max(rates["there"]),
        "throughput_ratio": max(rates["there"]) / max(rates["here"]),
        "added_p50_ms": 1e3 * (median(latencies["there"]) - median(latencies["here"])),
    }


async def _empty(scenes: list[Example]) -> dict[str, float]:
    """CPU of client and server together per request, the engine's own left out."""
    inner = teacher(scenes)
    costs = []
    async with served(inner, "scripted-bench") as address:
        client = PolicyClient(address, "scripted-bench")
        for policy in (inner, client):
            for warm in (True, False):
                begin = time.process_time()
                for first in range(0, 128 if warm else EMPTY_REQUESTS, CONCURRENCY):
                    await asyncio.gather(*(_ask(policy, scenes[k % 64], k) for k in range(first, first + CONCURRENCY)))
            costs.append((time.process_time() - begin) / EMPTY_REQUESTS)
        await client.close()
    return {"cpu_ms_per_request": 1e3 * (costs[1] - costs[0])}


async def _load(policy: Policy, scenes: list[Example]) -> int:
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(number: int) -> int:
        async with limit:
            return await _ask(policy, scenes[number % len(scenes)], number)

    return sum(await asyncio.gather(*map(one, range(REQUESTS))))


async def _ask(policy: Policy, example: Example, seed: int) -> int:
    messages = (Message(Role.SYSTEM, ("Answer.",)), Message(Role.USER, (*example.images, f"\n{example.question}")))
    generation = await policy.generate([Segment(Origin.PROMPT, messages)], seeds=[seed], sampling=SAMPLING)
    return len(generation.completions[0].token_ids)
