"""Load on a policy: many requests with an image each, answers of 32 to 96 tokens, so many in flight at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from operator import truediv
from statistics import median

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.policy.base import Policy, Sampling

CONCURRENCIES = (16, 64)
Ask = Callable[[int], Awaitable[int]]
"""Makes the request of a number; returns the tokens of its answer."""


def sampling_of(number: int) -> Sampling:
    """64 tokens on average: answers of one length would keep all callers in step with each other."""
    return Sampling(max_tokens=32 + number * 37 % 65, stop=())


def prompt_of(example: Example) -> list[Segment]:
    messages = (Message(Role.SYSTEM, ("Answer.",)), Message(Role.USER, (*example.images, f"\n{example.question}")))
    return [Segment(Origin.PROMPT, messages)]


def asking(policy: Policy, scenes: list[Example]) -> Ask:
    async def ask(number: int) -> int:
        prompt = prompt_of(scenes[number % len(scenes)])
        generation = await policy.generate(prompt, seeds=[number], sampling=sampling_of(number))
        return len(generation.completions[0].token_ids)

    return ask


async def load(ask: Ask, requests: int, concurrency: int) -> int:
    """Tokens of all answers."""
    limit = asyncio.Semaphore(concurrency)

    async def one(number: int) -> int:
        async with limit:
            return await ask(number)

    return sum(await asyncio.gather(*map(one, range(requests))))


Rates = dict[tuple[str, int], list[float]]
"""Tokens a second in each round, by who was asked and how many requests were in flight."""


async def rates_of(
    asks: Mapping[str, Ask], *, rounds: int, requests: int, cpu_s: Callable[[], float]
) -> tuple[Rates, dict[str, float]]:
    """All asked in turn, round after round, and the median CPU of a request in seconds.

    Every second round goes the other way: a machine that slows down within a round slows each of them in turn.
    """
    rates: Rates = {}
    costs: dict[str, list[float]] = {}
    for ask in asks.values():
        await load(ask, requests, CONCURRENCIES[0])
    for turn in range(rounds):
        for concurrency in CONCURRENCIES:
            for name, ask in list(asks.items())[:: -1 if turn % 2 else 1]:
                cpu, begin = cpu_s(), time.perf_counter()
                tokens = await load(ask, requests, concurrency)
                rates.setdefault((name, concurrency), []).append(tokens / (time.perf_counter() - begin))
                costs.setdefault(name, []).append((cpu_s() - cpu) / requests)
    return rates, {name: median(values) for name, values in costs.items()}


def ratio(rates: Rates, name: str, to: str, concurrency: int) -> float:
    """Median over the rounds of one's rate over the other's in the same round."""
    return median(map(truediv, rates[name, concurrency], rates[to, concurrency]))


async def added_p50_ms(here: Policy, there: Policy, count: int = 150) -> float:
    """How much longer a single short question without image takes `there`, asked in turn."""
    prompt = [Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),))]
    seconds: dict[str, list[float]] = {"here": [], "there": []}
    for number in range(count):
        for name, policy in (("here", here), ("there", there)):
            begin = time.perf_counter()
            await policy.generate(prompt, seeds=[number], sampling=Sampling(max_tokens=4, stop=()))
            seconds[name].append(time.perf_counter() - begin)
    return 1e3 * (median(seconds["there"]) - median(seconds["here"]))
