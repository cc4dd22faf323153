"""The policy service on vLLM beside the same engine in process, and beside vLLM alone."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.bench.support import examples
from tests.bench.tiny import tiny_model
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.jobs.local import Services
from vigorl_lib.policy.base import Policy, Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.policy.vllm import VllmPolicy

ROUNDS, REQUESTS = 3, 384
Ask = Callable[[int], Awaitable[int]]


def sampling_of(number: int) -> Sampling:
    """64 tokens on average, between 32 and 96: answers of one length would keep all callers in step with each other."""
    return Sampling(max_tokens=32 + number * 37 % 65, stop=())


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
        return asyncio.run(_measure(scenes, config, address, server))


async def _measure(
    scenes: list[Example], config: PolicyConfig, address: str, server: psutil.Process
) -> dict[str, float]:
    here = await asyncio.to_thread(VllmPolicy.open, config)
    there = PolicyClient(address, "tiny")
    asks: dict[str, Ask] = {
        "alone": lambda number: _alone(here, scenes, number),
        "here": lambda number: _ask(here, scenes[number % len(scenes)], number),
        "there": lambda number: _ask(there, scenes[number % len(scenes)], number),
    }
    rates: dict[tuple[str, int], list[float]] = {}
    costs: dict[str, list[float]] = {name: [] for name in asks}
    for ask in asks.values():
        await _load(ask, 16)
    for _ in range(ROUNDS):
        for concurrency in (16, 64):
            for name, ask in asks.items():
                cpu, begin = _cpu(server), time.perf_counter()
                tokens = await _load(ask, concurrency)
                rates.setdefault((name, concurrency), []).append(tokens / (time.perf_counter() - begin))
                costs[name].append((_cpu(server) - cpu) / REQUESTS)
    latencies: dict[str, list[float]] = {"here": [], "there": []}
    for number in range(60):
        for name, policy in (("here", here), ("there", there)):
            begin = time.perf_counter()
            await _text(policy, number)
            latencies[name].append(time.perf_counter() - begin)
    await there.close()
    await here.close()
    figures = {f"tokens_per_s_{name}_{concurrency}": median(values) for (name, concurrency), values in rates.items()}
    for concurrency in (16, 64):
        service, process, alone = (figures[f"tokens_per_s_{name}_{concurrency}"] for name in ("there", "here", "alone"))
        figures[f"service_ratio_{concurrency}"] = service / process
        figures[f"plain_vllm_ratio_{concurrency}"] = process / alone
    figures["added_cpu_ms_per_request"] = 1e3 * (median(costs["there"]) - median(costs["here"]))
    figures["added_p50_ms"] = 1e3 * (median(latencies["there"]) - median(latencies["here"]))
    return figures


def _cpu(server: psutil.Process) -> float:
    """CPU seconds of this process and the server's own, without the engines that both have in child processes."""
    times = server.cpu_times()
    return time.process_time() + times.user + times.system


async def _load(ask: Ask, concurrency: int) -> int:
    limit = asyncio.Semaphore(concurrency)

    async def one(number: int) -> int:
        async with limit:
            return await ask(number)

    return sum(await asyncio.gather(*map(one, range(REQUESTS))))


def _prompt(example: Example) -> list[Segment]:
    messages = (Message(Role.SYSTEM, ("Answer.",)), Message(Role.USER, (*example.images, f"\n{example.question}")))
    return [Segment(Origin.PROMPT, messages)]


async def _ask(policy: Policy, example: Example, seed: int) -> int:
    generation = await policy.generate(_prompt(example), seeds=[seed], sampling=sampling_of(seed))
    return len(generation.completions[0].token_ids)


async def _text(policy: Policy, seed: int) -> None:
    prompt = [Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),))]
    await policy.generate(prompt, seeds=[seed], sampling=Sampling(max_tokens=4, stop=()))


async def _alone(policy: VllmPolicy, scenes: list[Example], number: int) -> int:
    """The same request straight to vLLM's `generate`: the rendering is ours, admission, gate and answer are not."""
    prompt = _prompt(scenes[number % len(scenes)])
    prepared, sampling = await asyncio.to_thread(policy._intake.to_generate, prompt, sampling_of(number))
    inputs: Any
    (inputs,) = await policy._calls.engine.renderer.render_cmpl_async([policy._dialect.prompt(prepared)])
    params = policy._dialect.sampling(sampling, number, whole=True)
    async for output in policy._calls.engine.generate(inputs, params, f"alone-{number}-{time.monotonic_ns()}"):
        return len(output.outputs[0].token_ids)
    return 0
