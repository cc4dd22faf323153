"""Packed micro-batches give the loss and gradients of each sequence on its own, padded or not, alone or in a group."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.models import families
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan
from vigorl_lib.models import packing as packing_module
from vigorl_lib.models.features import encode, encoder_outputs
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.packing import pack, packed_attention
from vigorl_lib.models.pixels import View
from vigorl_lib.storage.base import Storage
from vigorl_lib.training.batches import Sample, collate_samples
from vigorl_lib.training.losses import cross_entropy
from vigorl_lib.training.module import LogProbModule
from vigorl_lib.training.order import padding_share

RNG = np.random.default_rng(0)
SIZES = {"a": Size(112, 112), "b": Size(56, 112), "c": Size(28, 28)}


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A small random model of each family; the last one also injects features between its layers."""
    folder = tmp_path_factory.mktemp(request.param)
    families.build(request.param, folder)
    return load_model(str(folder), device="cpu")


@pytest.fixture
def loaded(storage: Storage) -> LoadedModel:
    return load_model(f"{storage.uri}/tiny", device="cpu")


def views_of(loaded: LoadedModel, images: Sequence[Image]) -> dict[str, View]:
    """Noise in the model frame, the same for the same image."""
    views = {}
    for image in images:
        size = loaded.resize.model_size(image.size)
        noise = np.random.default_rng(ord(image.sha256))
        views[image.sha256] = noise.integers(0, 255, (size.height, size.width, 3), dtype=np.uint8)
    return views


def sequence(loaded: LoadedModel, *parts: int | str) -> TokenSequence:
    """Numbers are that many text tokens, names are images."""
    ids: list[int] = []
    spans = []
    for part in parts:
        if isinstance(part, int):
            ids += RNG.integers(10, 60, part).tolist()
            continue
        size = loaded.resize.model_size(SIZES[part])
        tokens = size.width * size.height // loaded.resize.factor**2
        spans.append(ImageSpan(len(ids), tokens, Image(part, "image/png", SIZES[part])))
        ids += [loaded.model.config.image_token_id] * tokens
    return TokenSequence(tuple(ids), tuple(spans))


def sample(tokens: TokenSequence, trained: int) -> Sample:
    """The last tokens are trained."""
    positions = np.arange(len(tokens) - trained, len(tokens))
    return Sample(tokens, positions, np.empty(0, dtype=np.float32))


def mixed(loaded: LoadedModel) -> list[Sample]:
    """Text alone, one image, an image in a later turn, very short, and one much longer than the others."""
    return [
        sample(sequence(loaded, 9), 4),
        sample(sequence(loaded, 5, "a", 12), 7),
        sample(sequence(loaded, 4, "b", 20, "c", 6), 5),
        sample(sequence(loaded, 2), 1),
        sample(sequence(loaded, 3, "a", 200, "b", 30), 30),
    ]


def group(loaded: LoadedModel) -> list[Sample]:
    """Two groups of one prompt with an image each; some members look at a crop later, one sequence stands alone."""
    samples: list[Sample] = []
    for image in ("a", "b"):
        prompt = sequence(loaded, 6, image, 11)
        for parts in ((8,), (3,), (4, "c", 5)):
            rest = sequence(loaded, *parts)
            spans = [ImageSpan(len(prompt) + s.start, s.length, s.image) for s in rest.image_spans]
            whole = TokenSequence(prompt.token_ids + rest.token_ids, (*prompt.image_spans, *spans))
            first = np.arange(len(prompt), len(prompt) + 3)
            samples.append(Sample(whole, np.append(first, len(whole) - 1), np.empty(0, dtype=np.float32)))
    return [*samples[:4], *mixed(loaded)[1:2], *samples[4:]]


def alone_loss(loaded: LoadedModel, samples: Sequence[Sample]) -> Tensor:
    """One right-padded batch through the stock forward with a mask, all logits; no packing anywhere."""
    model: Any = loaded.model
    batch = collate([each.sequence for each in samples], padding=0, resize=loaded.resize, side="right")
    views = views_of(loaded, batch.images)
    features = encode(model, [views[image.sha256] for image in batch.images], loaded.image_processor)
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        mm_encoder_outputs=encoder_outputs(features),
    ).last_hidden_state
    logprobs = model.lm_head(hidden).log_softmax(-1)
    total = logprobs.new_zeros(())
    for row, each in enumerate(samples):
        for position in each.positions.tolist():
            total = total - logprobs[row, position - 1, each.sequence.token_ids[position]]
    mean: Tensor = total / 100
    return mean


def packed_loss(loaded: LoadedModel, samples: Sequence[Sample]) -> Tensor:
    batch = collate_samples(samples, resize=loaded.resize)
    module = LogProbModule(loaded.model, loaded.image_processor)
    return cross_entropy(module(batch, views_of(loaded, batch.inputs.images)), 100)


def gradients(loaded: LoadedModel, loss: Tensor) -> dict[str, Tensor]:
    loaded.model.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}


def flash_attention(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, bounds_k: Tensor, *_: int, **options: Any
) -> Tensor:
    """What flash attention over sequences of any length does, one sequence after the other."""
    assert options["window_size"] == (-1, 0)
    parts = []
    assert torch.equal(bounds, bounds_k)
    for begin, end in pairwise(bounds.tolist()):
        q, k, v = (states[begin:end].transpose(0, 1) for states in (query, key, value))
        attended = scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=options["scale"], enable_gqa=options["enable_gqa"]
        )
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("batch", [mixed, group])
@pytest.mark.parametrize("attention", ["grids", "flash"])
def test_packed_loss_and_gradients_are_those_of_padded_sequences(
    family: LoadedModel, monkeypatch: pytest.MonkeyPatch, batch: Any, attention: str
) -> None:
    samples = batch(family)
    expected = alone_loss(family, samples)
    expected_gradients = gradients(family, expected)
    if attention == "flash":
        monkeypatch.setattr(packing_module, "_varlen_attention", lambda: flash_attention)
        monkeypatch.setattr(packing_module, "_attend_grids", packing_module._attend_flat)
    found = packed_loss(family, samples)
    found_gradients = gradients(family, found)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert torch.allclose(found_gradients[name], gradient, atol=1e-5), name


def test_a_prompt_and_its_image_are_in_the_row_once(loaded: LoadedModel) -> None:
    samples = group(loaded)
    batch = collate_samples(samples, resize=loaded.resize).inputs
    prompts = {each.sequence.beginning(each.prompt_tokens): each.prompt_tokens for each in samples}
    behind = sum(len(each) - each.prompt_tokens for each in samples)
    assert batch.input_ids.shape[1] == sum(prompts.values()) + behind
    assert [image.sha256 for image in batch.images] == ["a", "c", "b", "a", "c"]
    for each, places in zip(samples, batch.places, strict=True):
        assert batch.input_ids[0, places].tolist() == list(each.sequence.token_ids)


def test_equal_tokens_over_different_images_are_not_shared(loaded: LoadedModel) -> None:
    first = sequence(loaded, 4, "a", 6)
    span = first.image_spans[0]
    second = TokenSequence(first.token_ids, (ImageSpan(span.start, span.length, Image("d", "image/png", SIZES["a"])),))
    batch = pack([first, second], resize=loaded.resize, prompts=[len(first) - 2] * 2)
    assert batch.input_ids.shape[1] == 2 * len(first)


def test_no_mask_of_the_size_of_the_row_squared_is_made(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(*arguments: Any, **options: Any) -> Any:
        seen.append(arguments[4])
        return packed_attention(*arguments, **options)

    monkeypatch.setattr(packing_module, "packed_attention", spy)
    packed_loss(loaded, mixed(loaded))
    assert seen
    assert all(mask is None for mask in seen)


@pytest.mark.parametrize("spread", [0.0, 0.4, 1.2])
def test_grids_hold_little_padding_whatever_the_lengths(loaded: LoadedModel, spread: float) -> None:
    lengths = (40 * np.exp(RNG.normal(0.0, spread, 60))).astype(int) + 2
    batch = pack([sequence(loaded, int(length)) for length in lengths], resize=loaded.resize)
    places = sum(grid.numel() for grid in batch.packing.grids)
    assert lengths.sum() <= places <= lengths.sum() / 0.95
    assert padding_share(lengths.tolist(), [range(60)]) == pytest.approx(1 - lengths.sum() / places)


def test_ranks_without_images_run_a_trained_tower_and_give_it_no_gradient(loaded: LoadedModel) -> None:
    found = gradients(loaded, packed_loss(loaded, [sample(sequence(loaded, 9), 4)]))
    tower = {name: gradient for name, gradient in found.items() if ".visual." in name}
    assert tower.keys() == {name for name, _ in loaded.model.named_parameters() if ".visual." in name}
    assert all(not gradient.any() for gradient in tower.values())
