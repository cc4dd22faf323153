"""What the RPC adds to the embedded engine: throughput, latency, and CPU per request."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from tests.bench.asking import CONCURRENCIES, added_p50_ms, asking, prompt_of, rates_of, ratio
from tests.bench.support import examples, served, teacher
from tests.bench.tiny import tiny_model
from vigorl_lib.domain.example import Example
from vigorl_lib.jobs.local import Services
from vigorl_lib.policy.base import Policy, Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.engines import open_policy
from vigorl_lib.rpc.loop import run_loop

ROUNDS, REQUESTS = 16, 384
EMPTY_REQUESTS, EMPTY_IN_FLIGHT = 2000, 64


def run() -> dict[str, float]:
    scenes = examples(64)
    model = tiny_model()
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.launch("policy", "policy", {"policy": {"name": "tiny", "model": str(model)}})
        address = services.wait_ready("policy")
        server = psutil.Process(services.processes["policy"].pid)
        return run_loop(_measure(scenes, str(model), address, server)) | run_loop(_empty(scenes))


async def _measure(scenes: list[Example], model: str, address: str, server: psutil.Process) -> dict[str, float]:
    here = open_policy(PolicyConfig(name="tiny", model=model))
    there = PolicyClient(address, "tiny")

    def cpu_s() -> float:
        times = server.cpu_times()
        return time.process_time() + times.user + times.system

    asks = {"here": asking(here, scenes), "there": asking(there, scenes)}
    rates, costs = await rates_of(asks, rounds=ROUNDS, requests=REQUESTS, cpu_s=cpu_s)
    added = await added_p50_ms(here, there)
    await here.close()
    await there.close()
    figures = {f"tokens_per_s_{name}_{concurrency}": median(values) for (name, concurrency), values in rates.items()}
    figures |= {
        f"service_ratio_{concurrency}": ratio(rates, "there", "here", concurrency) for concurrency in CONCURRENCIES
    }
    return figures | {"added_cpu_ms_per_request": 1e3 * (costs["there"] - costs["here"]), "added_p50_ms": added}


async def _empty(scenes: list[Example]) -> dict[str, float]:
    """CPU of client and server together per request to a policy that costs nothing, its own left out."""
    inner = teacher(scenes)
    costs = []
    async with served(inner, "scripted-bench") as address:
        client = PolicyClient(address, "scripted-bench")
        for policy in (inner, client):
            for warm in (True, False):
                begin = time.process_time()
                for first in range(0, 128 if warm else EMPTY_REQUESTS, EMPTY_IN_FLIGHT):
                    numbers = range(first, first + EMPTY_IN_FLIGHT)
                    await asyncio.gather(*(_short(policy, scenes[number % 64], number) for number in numbers))
            costs.append((time.process_time() - begin) / EMPTY_REQUESTS)
        await client.close()
    return {"cpu_ms_per_empty_request": 1e3 * (costs[1] - costs[0])}


async def _short(policy: Policy, example: Example, seed: int) -> None:
    await policy.generate(prompt_of(example), seeds=[seed], sampling=Sampling(max_tokens=32, stop=()))
