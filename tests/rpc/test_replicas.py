"""A client over several replicas: placement, falling over, waiting, and names that move."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from tests.pictures import encoded
from tests.rpc.fakes import FakePolicy, ask, prompt_of, served
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import ConfigError, DataError, PolicyError, RemoteError
from vigorl_lib.policy.base import Sampling, StreamDelta, StreamEnd, StreamEvent, StreamStart
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc import replicas
from vigorl_lib.rpc.channels import Connection, Connections
from vigorl_lib.rpc.config import ClientConfig, ServerConfig
from vigorl_lib.rpc.replicas import Replicas, resolve_host
from vigorl_lib.storage.images import probe

RED = probe(encoded(40, 30, color=200))
NAME = "dns:///policy:50051"
FULL = PolicyError("full", reason="OVERLOADED", infrastructure=True)


class Name:
    """What a name means at the moment; nothing means that it does not resolve."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        assert (host, port) == ("policy", 50051)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses


async def target_of(connection: Connection, timeout_s: float) -> str:
    return connection.target


@asynccontextmanager
async def client_of(*targets: str, name: Name | None = None, timeout_s: float = 30.0) -> AsyncIterator[PolicyClient]:
    connections = Connections(ClientConfig(timeout_s=timeout_s))
    resolve = resolve_host if name is None else name
    client = PolicyClient(",".join(targets) or NAME, connections=connections, resolve=resolve)
    yield client
    await client.close()
    await connections.close()


@asynccontextmanager
async def served_all(*policies: FakePolicy) -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(served(policy)) for policy in policies]


@pytest.mark.parametrize("targets", ["", " , ", "dns:///policy", "dns:///:50051", "dns:///policy:http"])
def test_a_target_that_can_mean_nothing_is_refused(targets: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Replicas(targets, Connections())
    assert caught.value.reason == "TARGET_INVALID"


async def test_a_replica_that_comes_or_goes_moves_its_own_share_only() -> None:
    name = Name("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1")
    keys = [f"conversation {number}" for number in range(300)]
    members = Replicas(NAME, Connections(), resolve=name)
    before = {key: await members.call(key, target_of) for key in keys}
    assert min(Counter(before.values()).values()) > 60
    name.addresses = [*reversed(name.addresses), "10.0.0.4:1"]
    await members.everyone()
    after = {key: await members.call(key, target_of) for key in keys}
    moved = [key for key in keys if after[key] != before[key]]
    assert {after[key] for key in moved} == {"10.0.0.4:1"}
    assert 40 < len(moved) < 110
    name.addresses = ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]
    await members.everyone()
    assert {key: await members.call(key, target_of) for key in keys} == before
    await members.close()


async def test_another_client_places_the_same_conversations_the_same_way() -> None:
    one, other = (Replicas(targets, Connections()) for targets in ("a:1,b:2,c:3", "c:3, b:2, a:1"))
    for key in "abcdefghij":
        assert await one.call(key, target_of) == await other.call(key, target_of)


async def test_turns_and_samples_of_a_conversation_meet_one_replica() -> None:
    policies = FakePolicy(), FakePolicy(), FakePolicy()
    async with served_all(*policies) as addresses, client_of(name=Name(*addresses)) as client:
        for question in "abcdef":
            first = await ask(client, RED, question)
            turn = *first.prompt, *prompt_of("go on")
            await client.generate(turn, seeds=[1, 2], sampling=Sampling())
            await client.score(turn)
    asked = [[prompt[0].text for prompt in policy.prompts] for policy in policies]
    assert all(places.count(question) in (0, 2) for places in asked for question in "abcdef")
    assert sum(map(len, asked)) == 12


async def test_a_full_replica_is_passed_over_and_the_next_one_gets_the_images() -> None:
    policies = FakePolicy(), FakePolicy()
    async with served_all(*policies) as addresses, client_of(*addresses) as client:
        await ask(client, RED)
        own, other = policies if policies[0].prompts else policies[::-1]
        own.fail = FULL
        begin = time.monotonic()
        assert (await ask(client, RED)).completions
        assert time.monotonic() - begin < 0.4, "nobody waits while another replica has room"
        assert other.prompts[0][0].images[0].data == RED.data
        own.fail = None
        await ask(client, RED)
        assert len(own.prompts) == 3, "back at its own replica once that has room"


async def test_a_call_waits_for_room_as_long_as_its_deadline_allows() -> None:
    policies = FakePolicy(fail=FULL), FakePolicy(fail=FULL)
    async with served_all(*policies) as addresses:
        async with client_of(*addresses) as patient:
            call = asyncio.create_task(ask(patient))
            await asyncio.sleep(0.3)
            assert [len(policy.prompts) for policy in policies] == [1, 1], "told to wait half a second"
            policies[1].fail = None
            assert (await asyncio.wait_for(call, 5)).completions
        policies[1].fail = FULL
        async with client_of(*addresses, timeout_s=1.0) as hasty:
            begin = time.monotonic()
            with pytest.raises(PolicyError) as caught:
                await ask(hasty)
            assert caught.value.reason == "OVERLOADED"
            assert time.monotonic() - begin < 1.0


async def test_the_admission_limit_of_a_server_is_a_wait_as_well() -> None:
    policies = [FakePolicy(release=asyncio.Event()) for _ in range(2)]
    limit = ServerConfig(max_concurrent_calls=1, drain_s=1.0)
    async with (
        served(policies[0], limit) as first,
        served(policies[1], limit) as second,
        client_of(first, second) as client,
    ):
        calls = [asyncio.create_task(ask(client, str(number))) for number in range(4)]
        await asyncio.sleep(0.3)
        for policy in policies:
            assert policy.release is not None
            policy.release.set()
        assert all([(await call).completions for call in calls])


@pytest.mark.parametrize(
    "error", [DataError("bad", reason="IMAGE_UNREADABLE"), PolicyError("too long", reason="CONTEXT_OVERFLOW")]
)
async def test_what_would_fail_the_same_way_elsewhere_is_not_tried_elsewhere(error: DataError | PolicyError) -> None:
    policies = FakePolicy(fail=error), FakePolicy(fail=error)
    async with served_all(*policies) as addresses, client_of(*addresses) as client:
        with pytest.raises(type(error)) as caught:
            await ask(client)
        assert caught.value.reason == error.reason
        assert sum(len(policy.prompts) for policy in policies) == 1


SERVER = """
import asyncio
from tests.rpc.fakes import FakePolicy, served
class Slow(FakePolicy):
    async def generate(self, *arguments, **options):
        await asyncio.sleep(0.2)
        return await super().generate(*arguments, **options)
async def main():
    async with served(Slow()) as address:
        print(address, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_request_that_breaks_two_engines_is_kept_from_the_third() -> None:
    broken = PolicyError("the engine has ended", reason="ENGINE_FAILED", infrastructure=True)
    policies = [FakePolicy(fail=broken) for _ in range(3)]
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(served(policy)) for policy in policies]
        client = PolicyClient(",".join(addresses))
        with pytest.raises(PolicyError) as caught:
            await ask(client)
        await client.close()
    assert caught.value.reason == "ENGINE_FAILED"
    assert sum(len(policy.prompts) for policy in policies) == 2


async def test_no_request_is_lost_when_a_replica_is_killed_in_mid_run() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    assert process.stdout is not None
    survivors = FakePolicy(), FakePolicy()
    try:
        doomed = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        async with served_all(*survivors) as addresses, client_of(name=Name(doomed, *addresses)) as client:
            calls = [asyncio.create_task(ask(client, RED, str(number))) for number in range(60)]
            await asyncio.sleep(0.1)
            under_way = sum(not call.done() for call in calls)
            process.send_signal(signal.SIGKILL)
            assert all([(await asyncio.wait_for(call, 20)).completions for call in calls])
            assert under_way > 10, "about a third of them at the one that is killed"
            assert all(policy.prompts for policy in survivors)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_call_that_outlives_the_drain_of_its_replica_is_answered_by_another() -> None:
    stuck, other = FakePolicy(release=asyncio.Event()), FakePolicy()
    async with served(other) as second, AsyncExitStack() as leaving:
        first = await leaving.enter_async_context(served(stuck, ServerConfig(drain_s=0.1)))
        async with client_of(first, second) as client:
            calls = [asyncio.create_task(ask(client, question)) for question in "abcdefgh"]
            await asyncio.wait_for(stuck.entered.wait(), 5)
            await leaving.aclose()
            assert all([(await asyncio.wait_for(call, 5)).completions for call in calls])
            assert len(other.prompts) == 8


async def test_a_service_that_moves_is_looked_up_at_once_and_the_old_connection_is_closed() -> None:
    name = Name()
    async with client_of(name=name) as client:
        async with served(FakePolicy()) as address:
            name.addresses = [address]
            await ask(client)
            (old,) = client._replicas._members().values()
        moved = FakePolicy(version=2)
        async with served(moved) as address:
            name.addresses = [address]
            begin = time.monotonic()
            assert (await ask(client)).policy.version == 2
            assert time.monotonic() - begin < 2.0
            assert old._channel is None
            assert not client._replicas._leaving
    assert name.asked == 2


async def test_a_connection_that_left_stays_open_for_the_call_that_is_under_way() -> None:
    policy = FakePolicy(release=asyncio.Event())
    assert policy.release is not None
    async with served(policy) as address, served(FakePolicy()) as second:
        name = Name(address)
        async with client_of(name=name) as client:
            call = asyncio.create_task(ask(client))
            await asyncio.wait_for(policy.entered.wait(), 5)
            name.addresses = [second]
            await client._replicas.everyone()
            (leaving,) = client._replicas._leaving
            policy.release.set()
            assert (await call).completions
            await client._replicas.everyone()
            assert leaving._channel is None
            assert not client._replicas._leaving


async def test_a_name_is_looked_up_again_when_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    name = Name("10.0.0.1:1")
    members = Replicas(NAME, Connections(), resolve=name)
    for _ in range(5):
        await members.call("key", target_of)
    assert name.asked == 1
    monkeypatch.setattr(replicas, "RESOLVE_EVERY_S", 0.0)
    name.addresses = ["10.0.0.2:1"]
    assert await members.call("key", target_of) == "10.0.0.1:1", "nobody waits for it"
    await asyncio.sleep(0.01)
    assert await members.call("key", target_of) == "10.0.0.2:1"
    name.addresses = []
    for _ in range(3):
        assert await members.call("key", target_of) == "10.0.0.2:1", "kept while the name has none"
        await asyncio.sleep(0.01)
    await members.close()


async def test_a_name_without_addresses_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "FIRST_BACKOFF_S", 0.001)
    name = Name()
    async with client_of(name=name) as client:
        with pytest.raises(RemoteError, match="policy:50051") as caught:
            await ask(client)
        assert caught.value.reason == "UNAVAILABLE"
        assert caught.value.infrastructure
    assert name.asked == replicas.DARK_ROUNDS


async def test_the_resolver_of_this_machine_gives_one_address_for_one_host() -> None:
    assert await resolve_host("localhost", 50051) in (["127.0.0.1:50051"], ["[::1]:50051"])
    assert await resolve_host("127.0.0.1", 1) == ["127.0.0.1:1"]
    with pytest.raises(OSError):
        await resolve_host("no-such-host.invalid", 1)


def streamed(client: PolicyClient, question: str) -> AsyncGenerator[StreamEvent]:
    return client.stream(prompt_of(RED, question), seed=7, sampling=Sampling())


async def test_a_stream_is_a_start_with_the_prompt_rendered_then_deltas_then_the_whole() -> None:
    policy = FakePolicy()
    async with served(policy) as address, client_of(address) as client:
        for _ in range(2):
            start, delta, end = [event async for event in streamed(client, "a")]
            assert isinstance(start, StreamStart)
            assert start.prompt[0].token_ids == (0, ord("a"))
            assert isinstance(delta, StreamDelta)
            assert isinstance(end, StreamEnd)
            assert delta.text == end.completion.text == "7"
        assert list(client._pool.to(address).sent_images._digests) == [RED.sha256]


async def test_a_stream_begins_elsewhere_when_its_replica_is_full() -> None:
    policies = FakePolicy(fail=FULL), FakePolicy()
    async with served_all(*policies) as addresses, client_of(*addresses) as client:
        for question in "abcdef":
            assert len([event async for event in streamed(client, question)]) == 3
        assert policies[0].prompts


class BreaksOff(FakePolicy):
    """Fails after its first event."""

    async def stream(  # type: ignore[override]
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        self.prompts.append(prompt)
        yield StreamStart(tuple(prompt), await self.info())
        raise FULL


async def test_a_stream_that_has_begun_is_not_begun_again() -> None:
    policies = BreaksOff(), BreaksOff()
    async with served_all(*policies) as addresses, client_of(*addresses) as client:
        async with aclosing(streamed(client, "a")) as events:
            assert isinstance(await anext(events), StreamStart)
            with pytest.raises(PolicyError) as caught:
                await anext(events)
        assert caught.value.reason == "OVERLOADED"
        assert sum(len(policy.prompts) for policy in policies) == 1


async def test_leaving_a_stream_ends_the_work_on_the_server() -> None:
    policy = FakePolicy(release=asyncio.Event())
    async with served(policy) as address, client_of(address) as client:
        task = asyncio.create_task(anext(streamed(client, "a")))  # type: ignore[arg-type]
        await asyncio.wait_for(policy.entered.wait(), 5)
        task.cancel()
        await asyncio.wait_for(policy.cancelled.wait(), 5)
        assert client._pool.to(address).calls == 0


async def test_new_weights_are_told_to_every_replica_even_where_one_fails() -> None:
    class Stubborn(FakePolicy):
        async def update_weights(self, *, version: int, uri: str, run_id: str) -> None:  # type: ignore[override]
            raise PolicyError("of another run", reason="WRONG_RUN")

    policies = FakePolicy(), FakePolicy(), Stubborn()
    async with served_all(*policies) as addresses:
        for targets in (",".join(addresses[:2]), NAME):
            client = PolicyClient(addresses[0], admin=targets, resolve=Name(*addresses[:2]))
            version = policies[0].version + 1
            assert (await client.update_weights(version=version, uri="x", run_id="r")).version == version
            assert [policy.version for policy in policies[:2]] == [version, version]
            await client.close()
        client = PolicyClient(addresses[0], admin=NAME, resolve=Name(*reversed(addresses)))
        with pytest.raises(PolicyError) as caught:
            await client.update_weights(version=9, uri="x", run_id="r")
        assert caught.value.reason == "WRONG_RUN"
        assert [policy.version for policy in policies] == [9, 9, 1]
        await client.close()


async def test_a_client_that_knows_no_admin_address_says_which_setting_is_missing() -> None:
    client = PolicyClient("127.0.0.1:1", "student")
    with pytest.raises(ConfigError, match=r"services\.policy_admin\.student") as caught:
        await client.update_weights(version=1, uri="x", run_id="r")
    assert caught.value.reason == "ADMIN_TARGET_MISSING"
