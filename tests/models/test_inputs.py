"""Batches: padding and three-axis positions."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2_5_VLModel

from tests.models.support import flat_image, prompt
from vigorl_lib.domain.trajectory import ImageSpan
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.inputs import TokenSequence, collate, mrope_positions
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.models.tiny_tokenizer import build_tokenizer

RENDERER = ChatRenderer(build_tokenizer(), RESIZE)
PAD = RENDERER.image_pad
IMAGES = [flat_image(448, 448), flat_image(84, 84), flat_image(112, 56), flat_image(28, 112)]


@st.composite
def sequences(draw: st.DrawFn) -> TokenSequence:
    """Text, then any number of images with text behind each."""
    ids, spans = [1] * draw(st.integers(1, 5)), []
    for image in draw(st.lists(st.sampled_from(IMAGES), max_size=3)):
        length = RESIZE.visual_tokens(image.size)
        spans.append(ImageSpan(len(ids), length, image))
        ids += [PAD] * length + [1] * draw(st.integers(1, 4))
    return TokenSequence(tuple(ids), tuple(spans))


def reference_positions(batch_ids: torch.Tensor, mask: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=1)
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=vision),
        get_vision_position_ids=lambda *a, **k: Qwen2_5_VLModel.get_vision_position_ids(None, *a, **k),
    )
    kinds = (batch_ids == PAD).int()
    positions, _ = Qwen2_5_VLModel.get_rope_index(model, batch_ids, kinds, image_grid_thw=grids, attention_mask=mask)
    return positions


@given(st.lists(sequences(), min_size=1, max_size=4), st.sampled_from(["left", "right"]))
@settings(max_examples=40, deadline=None)
def test_positions_are_those_of_the_models_own_function(rows: list[TokenSequence], side: str) -> None:
    batch = collate(rows, padding=0, resize=RESIZE, side="left" if side == "left" else "right")
    sizes = [RESIZE.model_size(image.size) for image in batch.images]
    grids = torch.tensor([[1, size.height // 14, size.width // 14] for size in sizes]).reshape(-1, 3)
    expected = reference_positions(batch.input_ids, batch.attention_mask, grids)
    assert torch.equal(batch.position_ids, expected)
    ends = [int(expected[:, row, batch.attention_mask[row] == 1].max()) + 1 for row in range(len(rows))]
    assert batch.next_positions.tolist() == ends


def test_generation_pads_left_and_training_right() -> None:
    rows = [TokenSequence((5, 6, 7)), TokenSequence((8, 9))]
    left = collate(rows, padding=0, resize=RESIZE, side="left")
    right = collate(rows, padding=0, resize=RESIZE, side="right")
    assert left.input_ids.tolist() == [[5, 6, 7], [0, 8, 9]]
    assert right.input_ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert right.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_images_are_named_in_the_order_in_which_the_model_meets_them() -> None:
    first = TokenSequence.of(RENDERER.render([prompt(IMAGES[0])]))
    second = TokenSequence.of(RENDERER.render([prompt(IMAGES[1])]))
    assert collate([second, first], padding=0, resize=RESIZE, side="left").images == (IMAGES[1], IMAGES[0])


def test_an_image_advances_the_text_by_its_longer_side() -> None:
    wide = IMAGES[2]
    sequence = TokenSequence((1, *[PAD] * 8, 1), (ImageSpan(1, 8, wide),))
    positions, following = mrope_positions(sequence, RESIZE)
    assert positions[:, 0].tolist() == [0, 0, 0]
    assert positions[:, 8].tolist() == [1, 2, 4]
    assert positions[:, 9].tolist() == [5, 5, 5]
    assert following == 6
