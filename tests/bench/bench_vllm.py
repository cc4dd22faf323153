"""The policy service on vLLM beside the same engine in process, and beside vLLM alone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.asking import CONCURRENCIES, added_p50_ms, asking, prompt_of, rates_of, ratio, sampling_of
from tests.bench.support import examples
from tests.bench.tiny import tiny_model
from vigorl_lib.domain.example import Example
from vigorl_lib.jobs.local import Services
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.policy.vllm import VllmPolicy
from vigorl_lib.rpc.loop import run_loop

ROUNDS, REQUESTS = 16, 256


def run() -> dict[str, float]:
    scenes = examples(64)
    config = PolicyConfig(
        name="tiny",
        engine="vllm",
        model=str(tiny_model()),
        max_context_tokens=512,
        vllm=VllmConfig(compile=False, kv_cache_gib=0.25),
    )
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        services.launch("policy", "policy", {"policy": config.model_dump(mode="json")})
        address = services.wait_ready("policy")
        server = psutil.Process(services.processes["policy"].pid)
        return run_loop(_measure(scenes, config, address, server))


async def _measure(
    scenes: list[Example], config: PolicyConfig, address: str, server: psutil.Process
) -> dict[str, float]:
    here = await asyncio.to_thread(VllmPolicy.open, config)
    there = PolicyClient(address, "tiny")
    asks = {
        "alone": lambda number: _alone(here, scenes, number),
        "here": asking(here, scenes),
        "there": asking(there, scenes),
    }
    rates, costs = await rates_of(asks, rounds=ROUNDS, requests=REQUESTS, cpu_s=lambda: _cpu_s(server))
    added = await added_p50_ms(here, there)
    await there.close()
    await here.close()
    figures = {f"tokens_per_s_{name}_{concurrency}": median(values) for (name, concurrency), values in rates.items()}
    for concurrency in CONCURRENCIES:
        figures[f"service_ratio_{concurrency}"] = ratio(rates, "there", "here", concurrency)
        figures[f"plain_vllm_ratio_{concurrency}"] = ratio(rates, "here", "alone", concurrency)
    return figures | {"added_cpu_ms_per_request": 1e3 * (costs["there"] - costs["here"]), "added_p50_ms": added}


def _cpu_s(server: psutil.Process) -> float:
    """CPU seconds of this process and the server's own, without the engines that both have in child processes."""
    times = server.cpu_times()
    return time.process_time() + times.user + times.system


async def _alone(policy: VllmPolicy, scenes: list[Example], number: int) -> int:
    """The same request straight to vLLM's `generate`: the rendering is ours, admission, gate and answer are not."""
    prompt = prompt_of(scenes[number % len(scenes)])
    prepared, sampling = await asyncio.to_thread(policy._intake.to_generate, prompt, sampling_of(number))
    inputs: Any
    (inputs,) = await policy._calls.engine.renderer.render_cmpl_async([policy._dialect.prompt(prepared)])
    params = policy._dialect.sampling(sampling, number, whole=True)
    async for output in policy._calls.engine.generate(inputs, params, f"alone-{number}-{time.monotonic_ns()}"):
        return len(output.outputs[0].token_ids)
    return 0
