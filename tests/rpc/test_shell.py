"""What a call meets on its way: deadline, token, admission, errors, and the drain."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.fakes import FakePolicy, ask, prompt_of, served
from vigorl_lib.errors import ConfigError, DataError, InternalError, PolicyError, RemoteError, VigorlError
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.convert import sampling_to_proto
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import MAX_MESSAGE_BYTES, ClientConfig, ServerConfig
from vigorl_lib.rpc.errors import from_call
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import (
    PolicyServiceServicer,
    PolicyServiceStub,
    add_PolicyServiceServicer_to_server,
)
from vigorl_lib.rpc.images import MAX_INLINE_BYTES
from vigorl_lib.rpc.server import Service, registrar, running
from vigorl_lib.storage.served_images import open_image_cache
from vigorl_services.policy.server import PolicyServer

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_generation_comes_back_with_its_prompt_rendered() -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address, "fake", admin=address)
        generation = await ask(client, "ab", seeds=[1, 2, 3])
        assert [completion.token_ids for completion in generation.completions] == [(1,), (2,), (3,)]
        assert generation.prompt[0].token_ids == (97, 98)
        again = await client.generate(generation.prompt, seeds=[4], sampling=Sampling())
        assert again.prompt == generation.prompt
        assert (await client.score(prompt_of("ab"))).segments[0].logprobs == (-1.0, -1.0)
        assert (await client.update_weights(version=9, uri="x", run_id="r")).version == 9
        assert (await client.info()).version == 9
        await client.close()


@pytest.mark.parametrize(
    "error",
    [
        DataError("bad image", reason="IMAGE_UNREADABLE", path="x"),
        PolicyError("too long", reason="CONTEXT_OVERFLOW", tokens=9),
        PolicyError("full", reason="OVERLOADED", infrastructure=True),
    ],
)
async def test_an_error_of_the_engine_reaches_the_caller_as_itself(error: DataError | PolicyError) -> None:
    async with served(FakePolicy(fail=error)) as address:
        client = PolicyClient(address)
        with pytest.raises(type(error)) as caught:
            await ask(client)
        assert (caught.value.reason, caught.value.message) == (error.reason, error.message)
        assert caught.value.metadata == error.metadata
        await client.close()


async def test_a_bug_is_told_as_an_id_and_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with served(FakePolicy(fail=ZeroDivisionError("secret"))) as address:
        client = PolicyClient(address)
        with pytest.raises(InternalError) as caught:
            await ask(client)
        assert "secret" not in str(caught.value)
        assert caught.value.metadata["error_id"] in caplog.text
        assert "ZeroDivisionError" in caplog.text
        await client.close()


async def test_a_name_that_this_server_has_not_got_is_refused() -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address, "other")
        with pytest.raises(PolicyError) as caught:
            await ask(client)
        assert caught.value.reason == "POLICY_UNKNOWN"
        await client.close()


@pytest.mark.parametrize(("field", "seeds"), [("seeds", []), ("seeds", range(257))])
async def test_a_request_out_of_bounds_is_refused_by_field(field: str, seeds: list[int]) -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address)
        with pytest.raises(DataError) as caught:
            await ask(client, seeds=seeds)
        assert caught.value.metadata["field"] == field
        await client.close()


async def test_a_declared_method_that_is_not_served_says_so() -> None:
    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        register = registrar(add_PolicyServiceServicer_to_server, PolicyServiceServicer())
        yield Service("vigorl.policy.v1.PolicyService", register, FakePolicy().info)

    async with running(ServerConfig(), build) as address, grpc.aio.insecure_channel(address) as channel:
        call = PolicyServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_while_it_loads_a_server_is_alive_and_not_ready_and_says_so() -> None:
    begun, go, failures = asyncio.Event(), asyncio.Event(), []
    ready, failed = asyncio.Event(), asyncio.Event()
    address = ""
    policy = FakePolicy()
    dead = PolicyError("the engine has ended", reason="ENGINE_FAILED", infrastructure=True)

    async def alive() -> None:
        if policy.fail is not None:
            raise policy.fail

    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        begun.set()
        await go.wait()
        register = registrar(
            add_PolicyServiceServicer_to_server, PolicyServer(policy, "fake", open_image_cache("", cache_bytes=1))
        )
        yield Service("vigorl.policy.v1.PolicyService", register, policy.info, alive)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"

    def fail(error: VigorlError) -> None:
        failures.append(error)
        failed.set()

    async def serve() -> None:
        nonlocal address
        async with running(ServerConfig(listen=listen), build, on_failure=fail) as address:
            ready.set()
            await failed.wait()

    task = asyncio.create_task(serve())
    await begun.wait()
    async with grpc.aio.insecure_channel(listen) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return (await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status

        assert (await status("liveness"), await status("")) == (SERVING, NOT_SERVING)
        for call in (
            PolicyServiceStub(channel).GetPolicy(pb.GetPolicyRequest(), timeout=5),
            PolicyServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(), timeout=5).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert from_call(caught.value, listen).reason == "LOADING"
        go.set()
        await ready.wait()
        assert (await status("liveness"), await status("")) == (SERVING, SERVING)
        assert (await PolicyServiceStub(channel).GetPolicy(pb.GetPolicyRequest(), timeout=5)).policy.name == "fake"
        policy.fail = dead
        async with asyncio.timeout(10):
            await task
    assert failures == [dead]


async def test_a_call_ends_at_its_deadline_and_the_engine_is_told() -> None:
    policy = FakePolicy(release=asyncio.Event())
    async with served(policy) as address:
        client = PolicyClient(address, connections=Connections(ClientConfig(timeout_s=0.3)))
        with pytest.raises(RemoteError) as caught:
            await ask(client)
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        await asyncio.wait_for(policy.cancelled.wait(), 5)
        assert policy.cancelled.is_set()


async def test_a_call_without_time_left_never_reaches_the_engine() -> None:
    policy = FakePolicy()
    async with served(policy, ServerConfig(min_budget_s=60.0, drain_s=1.0)) as address:
        client = PolicyClient(address, connections=Connections(ClientConfig(timeout_s=30.0)))
        with pytest.raises(RemoteError) as caught:
            await ask(client)
        assert caught.value.reason == "DEADLINE_TOO_SHORT"
        assert not policy.prompts


async def test_a_client_that_goes_away_cancels_the_work() -> None:
    policy = FakePolicy(release=asyncio.Event())
    async with served(policy) as address:
        client = PolicyClient(address)
        task = asyncio.create_task(ask(client))
        await asyncio.wait_for(policy.entered.wait(), 5)
        task.cancel()
        await asyncio.wait_for(policy.cancelled.wait(), 5)
        assert policy.cancelled.is_set()
        await client.close()


async def test_only_the_right_token_gets_in_and_health_needs_none() -> None:
    async with served(FakePolicy(), token="right") as address:
        with pytest.raises(RemoteError) as caught:
            await ask(PolicyClient(address, connections=Connections(token="wrong")))
        assert caught.value.reason == "TOKEN_INVALID"
        with pytest.raises(RemoteError):
            await ask(PolicyClient(address, connections=Connections(token="")))
        assert (await ask(PolicyClient(address, connections=Connections(token="right")))).completions
        async with grpc.aio.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "vigorl.policy.v1.PolicyService", "liveness"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_calls_beyond_the_limit_are_turned_away_at_once() -> None:
    policy = FakePolicy(release=asyncio.Event())
    async with served(policy, ServerConfig(max_concurrent_calls=1, drain_s=1.0)) as address:
        client = PolicyClient(address)
        first = asyncio.create_task(ask(client))
        await asyncio.wait_for(policy.entered.wait(), 5)
        with pytest.raises(RemoteError) as caught:
            await ask(client)
        assert caught.value.reason == "ADMISSION_LIMIT"
        assert caught.value.infrastructure
        assert policy.release is not None
        policy.release.set()
        assert (await first).completions
        await client.close()


async def test_a_message_above_the_limit_is_refused_by_grpc() -> None:
    async with served(FakePolicy()) as address:
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            request = pb.GenerateRequest(
                seeds=[1], sampling=sampling_to_proto(Sampling()), request_id="x" * (MAX_MESSAGE_BYTES + 1)
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await PolicyServiceStub(channel).Generate(request)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_image_at_its_limit_fits_into_a_message() -> None:
    assert MAX_INLINE_BYTES < MAX_MESSAGE_BYTES


async def test_a_drain_lets_the_call_in_flight_finish() -> None:
    policy = FakePolicy(release=asyncio.Event())
    assert policy.release is not None
    async with served(policy, ServerConfig(drain_s=10.0)) as address:
        client = PolicyClient(address)
        call = asyncio.create_task(ask(client))
        await asyncio.wait_for(policy.entered.wait(), 5)
        asyncio.get_running_loop().call_later(0.2, policy.release.set)
    assert (await call).completions, "the server is gone and the answer arrived"
    await client.close()


async def test_two_servers_never_share_a_port() -> None:
    async with served(FakePolicy()) as address:
        with pytest.raises(ConfigError, match="port"):
            async with served(FakePolicy(), ServerConfig(listen=address)):
                pass


async def test_an_open_door_to_other_machines_needs_a_lock() -> None:
    with pytest.raises(ConfigError) as caught:
        async with served(FakePolicy(), ServerConfig(listen="0.0.0.0:0")):
            pass
    assert caught.value.reason == "INSECURE_LISTEN"
    async with served(FakePolicy(), ServerConfig(listen="0.0.0.0:0", drain_s=1.0), token="t"):
        pass


async def test_failures_are_logged_with_method_code_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vigorl.rpc")
    async with served(FakePolicy(fail=DataError("no", reason="NOPE"))) as address:
        client = PolicyClient(address)
        with pytest.raises(DataError):
            await ask(client)
        await client.close()
    (line,) = [record for record in caplog.records if record.getMessage() == "call"]
    assert (vars(line)["code"], vars(line)["reason"]) == ("INVALID_ARGUMENT", "NOPE")
