"""The embedded engine on the tiny model: real batches, real weights, no fakes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from tests.weights import want
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, flat_token_ids
from vigorl_lib.errors import DataError, PolicyError
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.pixels import ViewCache, to_patches
from vigorl_lib.models.weights import write_weights
from vigorl_lib.policy.base import Completion, FinishReason, Generation, PolicyState, Sampling
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.kv_cache import KeyValueCache
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage

SAMPLED = Sampling(max_tokens=12, stop=())
GREEDY = replace(SAMPLED, temperature=0.0)
LONG = Sampling(max_tokens=600, stop=("never said",))


@pytest.fixture
def config(tiny_folder: Path) -> PolicyConfig:
    return PolicyConfig(model=str(tiny_folder), trainable_by="run-1", max_batch=16)


@pytest.fixture
async def policy(config: PolicyConfig) -> AsyncIterator[TransformersPolicy]:
    policy = await asyncio.to_thread(open_embedded, config)
    yield policy
    await policy.close()


def conversations() -> list[tuple[Segment, ...]]:
    """Prompts of different lengths with no, one, two and differently sized images."""
    text_only = Segment(Origin.PROMPT, (Message(Role.USER, ("What color is it?",)),))
    thought = said(Origin.DEMONSTRATION, "<think> Look. </think>")
    zoomed = (prompt(scene_image(3)), thought, observation(flat_image(112, 84)))
    small = prompt(flat_image(56, 28), "A longer question by far?")
    return [(prompt(scene_image(1)),), (text_only,), zoomed, (small,)]


async def until_running(policy: TransformersPolicy) -> None:
    async with asyncio.timeout(10):
        while not policy._worker._decoder.rows:  # noqa: ASYNC110 - the worker is a thread and has no event of ours
            await asyncio.sleep(0.001)


def same(first: Completion, second: Completion) -> None:
    assert first.token_ids == second.token_ids
    assert first.text == second.text
    assert first.logprobs == pytest.approx(second.logprobs, abs=1e-4)


CUT = replace(SAMPLED, top_p=0.8, top_k=50)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, CUT], ids=["greedy", "free", "cut"])
async def test_a_sample_does_not_depend_on_its_neighbours_in_the_batch(
    policy: TransformersPolicy, sampling: Sampling
) -> None:
    prompts = conversations()
    alone = [await policy.generate(p, seeds=[i, i + 10], sampling=sampling) for i, p in enumerate(prompts)]
    shorter = replace(sampling, max_tokens=5)
    jobs = [policy.generate(p, seeds=[i, i + 10], sampling=sampling) for i, p in enumerate(prompts)]
    jobs += [policy.generate(prompts[0], seeds=[77, 78, 79], sampling=shorter)]
    together = await asyncio.gather(*jobs)
    for one, other in zip(alone, together, strict=False):
        assert one.prompt == other.prompt
        for first, second in zip(one.completions, other.completions, strict=True):
            same(first, second)


async def test_different_seeds_differ_and_the_same_seed_repeats(policy: TransformersPolicy) -> None:
    result = await policy.generate(conversations()[0], seeds=[1, 2, 1], sampling=SAMPLED)
    first, second, again = result.completions
    same(first, again)
    assert first.token_ids != second.token_ids


async def test_greedy_decoding_equals_a_plain_forward_pass_without_cache(
    policy: TransformersPolicy, tiny: LoadedModel
) -> None:
    """The whole engine (left padding, cache, features, positions) against the stock model on pixels."""
    views_of = ViewCache(tiny.resize)
    for segments in conversations()[::2]:
        result = await policy.generate(segments, seeds=[0], sampling=GREEDY)
        sequence = TokenSequence.of(result.prompt)
        ids = list(sequence.token_ids)
        for token in result.completions[0].token_ids:
            batch = collate(
                [TokenSequence(tuple(ids), sequence.image_spans)],
                padding=0,
                resize=tiny.resize,
                side="right",
            )
            views = [views_of.get(image) for image in batch.images]
            patches, grid = to_patches(views, tiny.image_processor)
            with torch.no_grad():
                logits = tiny.model(
                    input_ids=batch.input_ids,
                    position_ids=batch.position_ids,
                    pixel_values=patches,
                    image_grid_thw=grid,
                ).logits[0, -1]
            logits[list(tiny.renderer.forbidden)] = -torch.inf
            assert logits.argmax().item() == token
            ids.append(token)


async def test_scored_logprobs_are_the_samplers_own(policy: TransformersPolicy) -> None:
    results = await asyncio.gather(*(policy.generate(p, seeds=[5], sampling=SAMPLED) for p in conversations()))
    for result in results:
        completion = result.completions[0]
        turn = replace(said(Origin.POLICY, completion.text), token_ids=completion.token_ids)
        *before, scored = (await policy.score((*result.prompt, turn))).segments
        assert scored.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
        assert before[0].logprobs[0] == 0.0
        assert len(before[0].logprobs) == len(before[0].token_ids or ())


async def test_the_prompt_comes_back_rendered_and_is_then_used_as_it_is(policy: TransformersPolicy) -> None:
    segments = conversations()[2]
    first = await policy.generate(segments, seeds=[1], sampling=SAMPLED)
    again = await policy.generate(first.prompt, seeds=[1], sampling=SAMPLED)
    assert all(segment.token_ids is not None for segment in first.prompt)
    assert all(a is b for a, b in zip(again.prompt, first.prompt, strict=True))
    same(first.completions[0], again.completions[0])
    assert first.policy.token_exact
    assert not first.policy.scripted


async def test_a_stop_string_ends_a_sample_and_length_ends_the_others(policy: TransformersPolicy) -> None:
    letters = Sampling(max_tokens=40, stop=("e",))
    result = await policy.generate(conversations()[0], seeds=range(12), sampling=letters)
    reasons = {completion.finish_reason for completion in result.completions}
    assert FinishReason.STOP_STRING in reasons
    for completion in result.completions:
        assert completion.text.count("e") == (completion.finish_reason is FinishReason.STOP_STRING)
        assert completion.finish_reason is not FinishReason.LENGTH or len(completion.token_ids) == 40
        assert len(completion.logprobs) == len(completion.token_ids)


async def test_a_conversation_that_does_not_fit_is_refused_before_any_work(config: PolicyConfig) -> None:
    segments = conversations()[0]
    policy = await asyncio.to_thread(open_embedded, config.model_copy(update={"max_context_tokens": 60}))
    rendered = (await policy.generate(segments, seeds=[0], sampling=LONG)).prompt
    room = 60 - len(flat_token_ids(rendered))
    cut = await policy.generate(segments, seeds=range(8), sampling=LONG)
    assert max(len(completion.token_ids) for completion in cut.completions) == room
    with pytest.raises(PolicyError) as caught:
        await policy.generate((*segments, said(Origin.FORCED, "x" * 60)), seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "CONTEXT_OVERFLOW"
    await policy.close()


@pytest.mark.parametrize(
    ("seeds", "sampling"),
    [([], SAMPLED), (range(17), SAMPLED), ([1], replace(SAMPLED, max_tokens=0)), ([1], replace(SAMPLED, top_p=0.0))],
)
async def test_a_request_without_meaning_is_refused(
    policy: TransformersPolicy, seeds: list[int], sampling: Sampling
) -> None:
    with pytest.raises(PolicyError) as caught:
        await policy.generate(conversations()[0], seeds=seeds, sampling=sampling)
    assert caught.value.reason == "SAMPLING_INVALID"


async def test_a_bad_image_fails_its_own_request_only(policy: TransformersPolicy) -> None:
    broken = replace(scene_image(9), data=b"no image", sha256="0" * 64)
    unknown = replace(scene_image(9), data=None, sha256="1" * 64)
    good, bad, missing = await asyncio.gather(
        policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED),
        policy.generate((prompt(broken),), seeds=[0], sampling=SAMPLED),
        policy.generate((prompt(unknown),), seeds=[0], sampling=SAMPLED),
        return_exceptions=True,
    )
    assert isinstance(good, Generation)
    assert isinstance(bad, DataError)
    assert isinstance(missing, PolicyError)
    assert missing.reason == "IMAGE_NOT_CACHED"


@pytest.mark.parametrize("spoil", ["vocabulary", "negative", "stray placeholder", "missing placeholder", "long span"])
async def test_token_ids_that_do_not_fit_the_model_are_refused(
    policy: TransformersPolicy, tiny: LoadedModel, spoil: str
) -> None:
    (good,) = tiny.renderer.render(conversations()[0])
    ids, (span,) = list(good.token_ids or ()), good.image_spans
    if spoil == "vocabulary":
        ids[-1] = 10**6
    elif spoil == "negative":
        ids[-1] = -1
    elif spoil == "stray placeholder":
        ids[-1] = tiny.renderer.image_pad
    elif spoil == "missing placeholder":
        ids[span.start] = ids[-1]
    else:
        ids[span.start + span.length] = tiny.renderer.image_pad
        span = replace(span, length=span.length + 1)
    bad = replace(good, token_ids=tuple(ids), image_spans=(span,))
    for call in (policy.generate((bad,), seeds=[0], sampling=SAMPLED), policy.score((bad,))):
        with pytest.raises(PolicyError) as caught:
            await call
        assert caught.value.reason == "PROMPT_INVALID"


async def test_cancelling_frees_the_engine_at_once(policy: TransformersPolicy) -> None:
    task = asyncio.create_task(policy.generate(conversations()[0], seeds=range(16), sampling=LONG))
    await until_running(policy)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = await asyncio.wait_for(policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED), 5)
    assert len(result.completions) == 1


@pytest.mark.parametrize("late", range(4))
async def test_a_request_joins_those_in_flight_and_changes_none_of_them(policy: TransformersPolicy, late: int) -> None:
    """Longer and shorter prompts than those in the batch, with and without images."""
    prompts = conversations()
    long = replace(LONG, max_tokens=300)
    others = [p for i, p in enumerate(prompts) if i != late]
    alone = [await policy.generate(p, seeds=[7, 8], sampling=long) for p in others]
    own = await policy.generate(prompts[late], seeds=[1, 2], sampling=SAMPLED)
    running = [asyncio.create_task(policy.generate(p, seeds=[7, 8], sampling=long)) for p in others]
    await until_running(policy)
    joined = await policy.generate(prompts[late], seeds=[1, 2], sampling=SAMPLED)
    assert not any(task.done() for task in running), "nobody waits for the longest answer of others"
    together = await asyncio.gather(*running)
    for expected, found in zip([own, *alone], [joined, *together], strict=True):
        for first, second in zip(expected.completions, found.completions, strict=True):
            same(first, second)
    assert policy._worker._decoder.rows == 0


@pytest.mark.parametrize("where", ["prefill", "cache"])
async def test_a_request_that_fails_to_join_fails_alone(
    policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    expected = await policy.generate(conversations()[0], seeds=[0, 1], sampling=LONG)
    running = asyncio.create_task(policy.generate(conversations()[0], seeds=[0, 1], sampling=LONG))
    await until_running(policy)

    def out_of_memory(*_: object) -> None:
        raise MemoryError("of the accelerator")

    with monkeypatch.context() as patched:
        if where == "prefill":
            patched.setattr(policy._worker._decoder, "_forward", out_of_memory)
        else:
            patched.setattr(KeyValueCache, "join", out_of_memory)
        with pytest.raises(PolicyError) as caught:
            await policy.generate(conversations()[1], seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "ENGINE_FAILED"
    assert not running.done()
    for found, other in zip((await running).completions, expected.completions, strict=True):
        same(found, other)


async def test_new_weights_wait_for_what_is_in_flight_and_what_comes_waits_for_them(
    policy: TransformersPolicy, config: PolicyConfig, tmp_path: Path
) -> None:
    uri = publish(tmp_path, 2, config)
    running = asyncio.create_task(policy.generate(conversations()[0], seeds=[0, 1], sampling=LONG))
    await until_running(policy)
    assert await policy.state() is PolicyState.SERVING
    update = asyncio.create_task(policy.update_weights(version=2, uri=uri, run_id="run-1"))
    async with asyncio.timeout(10):
        while await policy.state() is not PolicyState.UPDATING:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    assert not running.done()
    later = await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED)
    assert running.done()
    assert {completion.policy_version for completion in (await running).completions} == {0}
    assert later.completions[0].policy_version == (await update).version == 2
    assert await policy.state() is PolicyState.SERVING


async def test_a_worker_that_breaks_is_a_failed_engine(
    policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy._worker, "_step", lambda: 1 / 0)
    for reason in ("ENGINE_FAILED", "ENGINE_CLOSED"):
        with pytest.raises(PolicyError) as caught:
            await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED)
        assert caught.value.reason == reason
        policy._worker._thread.join()
    assert await policy.state() is PolicyState.FAILED


async def test_more_than_may_wait_is_refused_as_overload(config: PolicyConfig) -> None:
    small = config.model_copy(update={"max_batch": 2, "max_queued": 4})
    policy = await asyncio.to_thread(open_embedded, small)
    jobs = [policy.generate(conversations()[0], seeds=[0, 1], sampling=LONG) for _ in range(8)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    refused = [result for result in results if isinstance(result, PolicyError)]
    assert refused
    assert {error.reason for error in refused} == {"OVERLOADED"}
    assert all(error.infrastructure for error in refused)
    assert any(isinstance(result, Generation) for result in results)
    await policy.close()


async def test_closing_refuses_what_comes_after(config: PolicyConfig) -> None:
    policy = await asyncio.to_thread(open_embedded, config)
    await policy.close()
    with pytest.raises(PolicyError) as caught:
        await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED)
    assert caught.value.reason == "ENGINE_CLOSED"


def publish(root: Path, version: int, config: PolicyConfig, *, scale: float = 1.5) -> str:
    """New weights, committed under their version; `CURRENT` names them."""
    name = f"{version:06d}"
    (root / name).mkdir(parents=True)
    model = load_model(config.model).model
    write_weights({key: tensor * scale for key, tensor in model.state_dict().items()}, root / name)
    commit.commit(open_storage(str(root)), name, {"version": version})
    uri = str(root / name)
    want(open_storage(str(root)), name, version)
    return uri


async def test_new_weights_change_samples_and_what_is_in_flight_keeps_its_version(
    policy: TransformersPolicy, config: PolicyConfig, tmp_path: Path
) -> None:
    uri = publish(tmp_path, 3, config)
    segments = conversations()[0]
    before = await policy.generate(segments, seeds=[1], sampling=SAMPLED)
    running = asyncio.create_task(policy.generate(segments, seeds=[1], sampling=LONG))
    await until_running(policy)
    info = await policy.update_weights(version=3, uri=uri, run_id="run-1")
    assert info.version == 3
    assert (await running).completions[0].policy_version == 0
    after = await policy.generate(segments, seeds=[1], sampling=SAMPLED, min_policy_version=3)
    assert after.completions[0].policy_version == after.policy.version == 3
    assert after.completions[0].token_ids != before.completions[0].token_ids

    fresh = await asyncio.to_thread(open_embedded, config.model_copy(update={"weights_root": str(tmp_path)}))
    assert (await fresh.info()).version == 3
    same((await fresh.generate(segments, seeds=[1], sampling=SAMPLED)).completions[0], after.completions[0])
    await fresh.close()


async def test_weights_of_another_run_of_an_older_version_or_of_no_use_are_refused(
    policy: TransformersPolicy, config: PolicyConfig, tmp_path: Path
) -> None:
    uri = publish(tmp_path, 2, config)
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=2, uri=uri, run_id="run-2")
    assert caught.value.reason == "WRONG_RUN"
    await policy.update_weights(version=2, uri=uri, run_id="run-1")
    assert (await policy.update_weights(version=2, uri="gone", run_id="run-1")).version == 2
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=1, uri=uri, run_id="run-1")
    assert caught.value.reason == "WEIGHTS_OLDER"
    stray = tmp_path / "000004"
    stray.mkdir()
    write_weights({"stray": torch.zeros(1)}, stray)
    commit.commit(open_storage(str(tmp_path)), "000004", {})
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=4, uri=str(stray), run_id="run-1")
    assert caught.value.reason == "WEIGHTS_MISMATCH"
    assert (await policy.info()).version == 2
    with pytest.raises(PolicyError) as caught:
        await policy.generate(conversations()[0], seeds=[0], sampling=SAMPLED, min_policy_version=4)
    assert caught.value.reason == "POLICY_TOO_OLD"


async def test_a_policy_that_nobody_trains_takes_no_weights(config: PolicyConfig) -> None:
    policy = await asyncio.to_thread(open_embedded, config.model_copy(update={"trainable_by": ""}))
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=1, uri="anywhere", run_id="run-1")
    assert caught.value.reason == "NOT_TRAINABLE"
    await policy.close()


async def test_a_lower_pixel_limit_makes_a_smaller_view(config: PolicyConfig) -> None:
    small = config.model_copy(update={"trainable_by": "", "max_image_pixels": 56 * 56})
    policy = await asyncio.to_thread(open_embedded, small)
    generation = await policy.generate((prompt(scene_image(1)),), seeds=[0], sampling=SAMPLED)
    (span,) = generation.prompt[0].image_spans
    assert span.length == 4
    assert generation.policy.resize.max_pixels == 56 * 56
    await policy.close()
    with pytest.raises(ValueError, match="preprocessor_config"):
        PolicyConfig(model=config.model, trainable_by="run-1", max_image_pixels=56 * 56)
