"""Replicas that do not take new weights are named, passed over, and hold nobody up beyond their deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

import pytest

from tests.rpc.fakes import FakePolicy, ask, served
from tests.training.support import free_port
from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.policy.base import PolicyInfo
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig

TIMEOUT_S = 2.0


class Hangs(FakePolicy):
    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        await asyncio.sleep(3600.0)
        raise AssertionError


class Breaks(FakePolicy):
    """Until it is made whole."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = False
        self._changed = asyncio.Condition()

    async def took(self, version: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.version >= version)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        if self.whole:
            async with self._changed:
                self.version = version
                self._changed.notify_all()
            return await self.info()
        raise PolicyError("the disk is full", reason="ENGINE_FAILED", infrastructure=True)


async def test_replicas_that_hang_or_break_are_named_and_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    good, hangs, breaks = FakePolicy(), Hangs(), Breaks()
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(served(policy)) for policy in (good, hangs, breaks)]
        connections = Connections(ClientConfig(timeout_s=TIMEOUT_S))
        client = PolicyClient(",".join(addresses), admin=",".join(addresses), connections=connections)
        begin = time.monotonic()
        with caplog.at_level(logging.WARNING):
            assert (await client.update_weights(version=2, uri="x", run_id="r")).version == 2
        assert time.monotonic() - begin < 4 * TIMEOUT_S
        assert all(address in caplog.text for address in addresses[1:])
        assert addresses[0] not in caplog.text
        answers = [await ask(client, f"question {number}", version=2) for number in range(12)]
        assert {answer.completions[0].policy_version for answer in answers} == {2}
        assert len(good.prompts) == 12
        await client.close()
        await connections.close()


async def test_a_replica_that_failed_is_told_again_and_not_waited_for() -> None:
    good, hangs, mended = FakePolicy(), Hangs(), Breaks()
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(served(policy)) for policy in (hangs, mended, good)]
        connections = Connections(ClientConfig(timeout_s=TIMEOUT_S))
        client = PolicyClient(",".join(addresses), admin=",".join(addresses), connections=connections)
        await client.update_weights(version=2, uri="x", run_id="r")
        mended.whole = True
        begin = time.monotonic()
        for version in (3, 4):
            assert (await client.update_weights(version=version, uri="x", run_id="r")).version == version
            await asyncio.wait_for(mended.took(version), TIMEOUT_S)
        assert time.monotonic() - begin < TIMEOUT_S
        await client.close()
        await connections.close()


async def test_where_no_replica_takes_the_weights_the_caller_is_told() -> None:
    connections = Connections(ClientConfig(timeout_s=TIMEOUT_S))
    client = PolicyClient("127.0.0.1:1", admin=f"127.0.0.1:{free_port()}", connections=connections)
    with pytest.raises(VigorlError) as caught:
        await client.update_weights(version=2, uri="x", run_id="r")
    assert caught.value.infrastructure
    await client.close()
    await connections.close()
