from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.search.support import WrittenPolicy, answer
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import Generation, Sampling
from vigorl_lib.search import pacing
from vigorl_lib.search.pacing import FairGate, PacedPolicy, asking_for


class Engine(WrittenPolicy):
    """Works on `slots` samples at a time for a moment each, tells how long a request waited, refuses above `room`."""

    def __init__(self, slots: int, room: int = 10**9) -> None:
        super().__init__(lambda *_: answer("pink"))
        self.free = asyncio.Semaphore(slots)
        self.room = room
        self.inside = self.most = self.refused = 0

    async def generate(self, prompt: Sequence[Segment], *, seeds: Sequence[int], **rest: Any) -> Generation:
        if self.inside + len(seeds) > self.room:
            self.refused += 1
            raise PolicyError("full", reason="OVERLOADED", infrastructure=True)
        self.inside += len(seeds)
        self.most = max(self.most, self.inside)
        begin = asyncio.get_running_loop().time()
        try:
            async with self.free:
                waited = asyncio.get_running_loop().time() - begin
                await asyncio.sleep(0.01)
        finally:
            self.inside -= len(seeds)
        return replace(await super().generate(prompt, seeds=seeds, **rest), queue_seconds=waited, engine_seconds=0.01)


async def ask(policy: PacedPolicy, tree: str = "t", samples: int = 1) -> None:
    asking_for.set(tree)
    await policy.generate((), seeds=range(samples), sampling=Sampling())


async def together(policy: PacedPolicy, requests: int) -> None:
    await asyncio.gather(*(asyncio.create_task(ask(policy, f"t{k % 7}")) for k in range(requests)))


async def test_the_limit_comes_down_to_what_the_engine_can_work_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "MIN_QUEUE_S", 0.0)
    engine = Engine(slots=4)
    policy = PacedPolicy(engine)
    await together(policy, 500)
    # Six samples are the first that wait for as long as they are worked on; a slow machine makes five look like it.
    assert 3 <= policy.limit <= 16, "full, and no queue that is longer than the work"


async def test_the_limit_grows_while_nothing_waits_and_only_where_it_is_reached() -> None:
    engine = Engine(slots=1000)
    policy = PacedPolicy(engine)
    await together(policy, 40)
    assert policy.limit == pacing.FIRST_LIMIT, "nobody reached it"
    await together(policy, 600)
    assert policy.limit > 2 * pacing.FIRST_LIMIT
    assert engine.most > pacing.FIRST_LIMIT


async def test_a_refusal_for_load_is_asked_again_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_WAIT_S", 0.01)
    engine = Engine(slots=8, room=8)
    policy = PacedPolicy(engine)
    await together(policy, 100)
    assert engine.refused
    assert policy.limit <= 32
    assert len(engine.requests) == 100


async def test_a_refusal_that_does_not_end_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(pacing, "PATIENCE_S", 0.05)
    with pytest.raises(PolicyError, match="full"):
        await ask(PacedPolicy(Engine(slots=1, room=0)))


async def test_trees_that_wait_get_their_turn_one_after_the_other() -> None:
    gate = FairGate(1)
    order: list[str] = []

    async def work(tree: str) -> None:
        await gate.enter(tree, 1)
        order.append(tree)
        gate.leave(1)

    await gate.enter("first", 1)
    tasks = [asyncio.create_task(work(tree)) for tree in ["wide"] * 4 + ["a", "b"]]
    await asyncio.sleep(0)
    gate.leave(1)
    await asyncio.gather(*tasks)
    assert order == ["wide", "a", "b", "wide", "wide", "wide"]


async def test_who_leaves_the_row_or_was_just_let_in_gives_the_room_back() -> None:
    gate = FairGate(2)
    await gate.enter("t", 2)
    waiting = [asyncio.create_task(gate.enter(f"t{k}", 1)) for k in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    gate.leave(2)
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert gate.inside == 1
    gate.leave(1)
    await gate.enter("t", 2)
    assert gate.inside == 2


async def test_a_request_larger_than_the_limit_goes_in_alone() -> None:
    gate = FairGate(2)
    await asyncio.wait_for(gate.enter("t", 5), 1)
    other = asyncio.create_task(gate.enter("u", 1))
    await asyncio.sleep(0)
    assert not other.done()
    gate.leave(5)
    await other
