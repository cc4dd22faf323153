"""Vision features in place of pixels, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.models.support import flat_image, prompt, scene_image
from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.features import FeatureCache, encoder_outputs
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.pixels import ViewCache, to_patches
from vigorl_lib.models.tiny import tiny_config
from vigorl_lib.models.tiny_tokenizer import build_tokenizer

TOKENIZER = build_tokenizer()


def tiny_of(family: str) -> tuple[Any, int]:
    """A random model of a family and its patch size."""
    config = tiny_config(TOKENIZER)
    ids = {name: getattr(config, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id")}
    text = {
        "vocab_size": len(TOKENIZER),
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
    }
    if family == "qwen2_5_vl":
        return Qwen2_5_VLForConditionalGeneration(config).eval(), 14
    if family == "qwen2_vl":
        vision = {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
        return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids)).eval(), 14
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids)).eval(), 16


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_cached_features_give_what_pixels_give(family: str) -> None:
    torch.manual_seed(0)
    model, patch = tiny_of(family)
    side = 2 * patch
    resize = ResizeRule(factor=side, min_pixels=side * side, max_pixels=(4 * side) ** 2)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": resize.min_pixels, "longest_edge": resize.max_pixels}, patch_size=patch
    )
    renderer, views = ChatRenderer(TOKENIZER, resize), ViewCache(resize)
    rows = [TokenSequence.of(renderer.render([prompt(image)])) for image in (scene_image(1), flat_image(90, 120))]
    batch = collate(rows, padding=renderer.padding, resize=resize, side="right")
    own = {image.sha256: views.get(image) for image in batch.images}
    patches, grid = to_patches(list(own.values()), processor)
    common = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    cache = FeatureCache()
    with torch.no_grad():
        expected = model(**common, pixel_values=patches, image_grid_thw=grid).logits
        for _ in range(2):
            features = cache.get(model, batch.images, own, processor)
            found = model(**common, mm_encoder_outputs=encoder_outputs(features)).logits
            real = batch.attention_mask.bool()
            assert (expected - found)[real].abs().max() < 1e-5


def test_the_cache_computes_an_image_once_and_stays_within_its_bytes(tiny: Any) -> None:
    images = [scene_image(seed) for seed in range(3)]
    views = {image.sha256: ViewCache(tiny.resize).get(image) for image in images}
    one = 16 * 96 * 4
    cache = FeatureCache(max_bytes=2 * one)
    first = cache.get(tiny.model, images[:2], views, tiny.image_processor)
    again = cache.get(tiny.model, [images[1], images[0], images[1]], {}, tiny.image_processor)
    assert [a.pooled is b.pooled for a, b in zip(again, (first[1], first[0], first[1]), strict=True)] == [True] * 3
    cache.get(tiny.model, images[2:], views, tiny.image_processor)
    with pytest.raises(KeyError):
        cache.get(tiny.model, [images[1]], {}, tiny.image_processor)
    cache.clear()
    with pytest.raises(KeyError):
        cache.get(tiny.model, [images[2]], {}, tiny.image_processor)
