"""Clients: images once per server, several targets, and servers that come back."""

from __future__ import annotations

import asyncio

import pytest

from tests.pictures import encoded, huge_png
from tests.rpc.fakes import FakePolicy, ask, served
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import DataError, PolicyError, RemoteError
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc.channels import Connection, Connections
from vigorl_lib.rpc.config import ServerConfig
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2
from vigorl_lib.rpc.images import SentImages
from vigorl_lib.rpc.replicas import Replicas
from vigorl_lib.storage.images import probe

RED, BLUE = probe(encoded(40, 30, color=200)), probe(encoded(40, 30, color=20))


def sources(sent: list[image_pb2.Image]) -> list[str | None]:
    return [proto.WhichOneof("source") for proto in sent]


async def test_an_image_is_inline_once_and_then_a_digest() -> None:
    sent: list[image_pb2.Image] = []
    images = SentImages()

    async def send(encode: object) -> None:
        sent.extend(encode(image) for image in (RED, RED, BLUE))  # type: ignore[operator]

    await images.call(send)
    await images.call(send)
    assert sources(sent) == ["inline", "digest", "inline", "digest", "digest", "digest"]


async def test_a_failed_call_does_not_count_as_sent() -> None:
    images = SentImages()
    sent: list[image_pb2.Image] = []

    async def fail(encode: object) -> None:
        encode(RED)  # type: ignore[operator]
        raise RemoteError("gone", reason="UNAVAILABLE")

    async def send(encode: object) -> None:
        sent.append(encode(RED))  # type: ignore[operator]

    with pytest.raises(RemoteError):
        await images.call(fail)
    await images.call(send)
    assert sources(sent) == ["inline"]


async def test_a_server_that_forgot_an_image_gets_it_again_without_the_caller_noticing() -> None:
    policy = FakePolicy()
    async with served(policy, cache_bytes=1) as address:
        client = PolicyClient(address)
        for image in (RED, BLUE, RED, BLUE):
            await ask(client, image, "?")
        assert [prompt[0].images[0] for prompt in policy.prompts] == [RED, BLUE, RED, BLUE]
        assert all(prompt[0].images[0].data for prompt in policy.prompts)
        await client.close()


async def test_five_lines_to_a_first_answer() -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address)
        question = Message(Role.USER, (probe(encoded(40, 30)), "Where is the ball?"))
        answer = await client.generate([Segment(Origin.PROMPT, (question,))], seeds=[7], sampling=Sampling())
        assert answer.completions[0].text == "7"
        await client.close()


async def test_a_server_reads_type_and_size_itself() -> None:
    policy = FakePolicy()
    async with served(policy) as address:
        client = PolicyClient(address)
        lie = Image(RED.sha256, "image/gif", BLUE.size, RED.data)
        await ask(client, lie, "?")
        assert policy.prompts[0][0].images[0].media_type == "image/png"
        await client.close()


@pytest.mark.parametrize(
    ("data", "reason"), [(b"no image", "IMAGE_UNREADABLE"), (huge_png(60_000, 60_000), "IMAGE_TOO_LARGE")]
)
async def test_bytes_that_are_no_image_or_too_large_a_one_are_refused_before_they_are_decoded(
    data: bytes, reason: str
) -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address)
        with pytest.raises(DataError) as caught:
            await ask(client, Image("0" * 64, "image/png", RED.size, data))
        assert caught.value.reason == reason
        await client.close()


async def test_an_image_without_bytes_that_the_server_has_not_got_names_the_remedy() -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address)
        with pytest.raises(DataError, match="storage") as caught:
            await ask(client, RED.without_data())
        assert caught.value.reason == "IMAGE_NOT_AT_HAND"
        await client.close()


async def test_a_replica_with_old_weights_is_passed_over() -> None:
    old, new = FakePolicy(version=1), FakePolicy(version=2)
    async with served(old) as first, served(new) as second:
        client = PolicyClient(f"{first}, {second}")
        for question in "abcdef":
            generation = await ask(client, question, version=2)
            assert generation.policy.version == 2
        with pytest.raises(PolicyError) as caught:
            await ask(client, version=3)
        assert caught.value.reason == "POLICY_TOO_OLD"
        await client.close()


async def test_a_conversation_stays_with_its_replica_and_conversations_spread() -> None:
    policies = FakePolicy(), FakePolicy()
    async with served(policies[0]) as first, served(policies[1]) as second:
        client = PolicyClient(f"{first},{second}")
        for question in "abcdefgh":
            await ask(client, question)
            await ask(client, question)
        for policy in policies:
            asked = [prompt[0].text for prompt in policy.prompts]
            assert asked
            assert all(asked.count(question) == 2 for question in asked)
        await client.close()


async def test_the_same_key_goes_to_the_same_replica_whatever_the_order_of_the_list() -> None:
    async def target(connection: Connection, timeout_s: float) -> str:
        return connection.target

    lists = [Replicas(targets, Connections()) for targets in ("a:1,b:2,c:3", "c:3,a:1,b:2")]
    one, other = [[await replicas.call(str(key), target) for key in range(60)] for replicas in lists]
    assert one == other
    assert min(one.count(name) for name in ("a:1", "b:2", "c:3")) > 5


async def test_a_server_that_comes_back_on_its_port_is_found_again() -> None:
    async with served(FakePolicy()) as address:
        client = PolicyClient(address)
        await ask(client, RED)
    call = asyncio.create_task(ask(client, RED))
    await asyncio.sleep(0.3)
    async with served(FakePolicy(), ServerConfig(listen=address, drain_s=1.0)):
        assert (await asyncio.wait_for(call, 20)).completions, "retried, and its image sent again"
    await client.close()


async def test_nobody_at_the_address_is_one_clear_error() -> None:
    client = PolicyClient("127.0.0.1:1")
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:1") as caught:
        await ask(client)
    assert caught.value.reason == "UNAVAILABLE"
    assert caught.value.infrastructure
    await client.close()
