"""Requests and updates take turns."""

from __future__ import annotations

import asyncio
import random

import pytest
from grpc import StatusCode

from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.gate import UpdateGate
from vigorl_lib.rpc.errors import code_of


async def test_no_request_is_inside_while_an_update_is_and_no_request_is_lost() -> None:
    gate, inside, seen = UpdateGate("student", drain_s=60), 0, []
    order = random.Random(0)
    version = 0

    async def request() -> None:
        nonlocal inside
        await asyncio.sleep(order.random() * 0.02)
        async with gate.shared():
            begin = version
            inside += 1
            await asyncio.sleep(order.random() * 0.01)
            inside -= 1
            assert version == begin
            seen.append(version)

    async def update() -> None:
        nonlocal version
        async with gate.alone():
            assert inside == 0
            await asyncio.sleep(0.002)
            version += 1
            assert inside == 0

    async def updates() -> None:
        for _ in range(4):
            await asyncio.sleep(0.004)
            await update()

    await asyncio.gather(updates(), *(request() for _ in range(200)))
    assert len(seen) == 200
    assert version == 4
    assert len(set(seen)) > 1


async def test_an_update_waits_for_those_inside_and_goes_before_those_that_come_later() -> None:
    gate, events = UpdateGate("student", drain_s=60), []
    leave = asyncio.Event()

    async def early() -> None:
        async with gate.shared():
            await leave.wait()
            events.append("early")

    async def update() -> None:
        async with gate.alone():
            events.append("update")

    async def late() -> None:
        async with gate.shared():
            events.append("late")

    tasks = []
    for work in (early, update, late):
        tasks.append(asyncio.create_task(work()))
        await asyncio.sleep(0)
    assert gate.closed
    leave.set()
    await asyncio.gather(*tasks)
    assert events == ["early", "update", "late"]
    assert not gate.closed


async def test_a_failed_update_and_a_cancelled_request_leave_the_gate_open() -> None:
    gate = UpdateGate("student", drain_s=60)
    with pytest.raises(RuntimeError):
        async with gate.alone():
            raise RuntimeError("the load failed")
    waiting = asyncio.create_task(_hold(gate))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), gate.alone():
        assert gate.closed
    async with asyncio.timeout(1), gate.shared():
        assert not gate.closed


async def test_requests_that_an_update_cannot_wait_for_are_ended_and_told_to_come_again() -> None:
    gate = UpdateGate("student", drain_s=0.05)
    slow = [asyncio.create_task(_hold(gate)) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2), gate.alone():
        later = asyncio.create_task(_pass(gate))
        await asyncio.sleep(0)
        assert not later.done()
    for task in slow:
        with pytest.raises(PolicyError) as caught:
            await task
        assert caught.value.reason == "PREEMPTED"
        assert code_of(caught.value) is StatusCode.UNAVAILABLE
    await later


async def test_a_timeout_of_the_request_itself_stays_one() -> None:
    gate = UpdateGate("student", drain_s=60)
    with pytest.raises(TimeoutError):
        async with gate.shared(), asyncio.timeout(0.01):
            await asyncio.sleep(10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), gate.shared():
            await asyncio.sleep(10)


async def _pass(gate: UpdateGate) -> None:
    async with gate.shared():
        pass


async def _hold(gate: UpdateGate) -> None:
    async with gate.shared():
        await asyncio.sleep(10)
