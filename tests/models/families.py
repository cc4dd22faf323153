"""A small random checkpoint of each family, shaped and configured as the released ones are.

The templates are written from what the families' own do with text and images; each is ChatML, and they differ in
the default system message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from vigorl_lib.models.tiny_tokenizer import (
    END_OF_TEXT,
    IM_END,
    IMAGE_PAD,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

DEFAULT_SYSTEM = "You are a helpful assistant."

_PARTS = (
    "{% macro parts(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}{% endmacro %}"
)
_MESSAGES = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ parts(message.content) }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DEFAULT = "{% if messages[0].role != 'system' %}<|im_start|>system\n" + DEFAULT_SYSTEM + "<|im_end|>\n{% endif %}"

_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6]},
    # Wide enough that a random model's greedy choices are no near ties.
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Shape:
    """How a family differs, as its released checkpoints do."""

    model: Any
    config: Any
    text: dict[str, Any]
    vision: dict[str, Any]
    preprocessor: dict[str, Any]
    template: str


def shapes() -> dict[str, Shape]:
    clip = Qwen2VLImageProcessorPil
    older = {
        "min_pixels": 3136,
        "max_pixels": 28 * 28 * 24,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": clip.image_mean,
        "image_std": clip.image_std,
        "image_processor_type": "Qwen2VLImageProcessor",
    }
    newer = {
        "size": {"shortest_edge": 4 * 1024, "longest_edge": 24 * 1024},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
    }
    noise = {"initializer_range": 0.2}
    tower = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 14, "temporal_patch_size": 2} | noise
    second = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14} | noise
    windows = {"intermediate_size": 48, "out_hidden_size": 64, "window_size": 56, "fullatt_block_indexes": [1]}
    deep = {
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "patch_size": 16,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    with_default, without = _PARTS + _DEFAULT + _MESSAGES, _PARTS + _MESSAGES
    return {
        "qwen2_vl": Shape(Qwen2VLForConditionalGeneration, Qwen2VLConfig, {}, second, older, with_default),
        "qwen2_5_vl": Shape(
            Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, {}, tower | windows, older, with_default
        ),
        "qwen3_vl": Shape(
            Qwen3VLForConditionalGeneration, Qwen3VLConfig, {"head_dim": 32}, tower | deep, newer, without
        ),
    }


def build(family: str, folder: Path) -> None:
    """Write a checkpoint of a family: config, random weights, tokenizer with its template, preprocessor."""
    shape = shapes()[family]
    tokenizer = build_tokenizer()
    tokenizer.chat_template = shape.template
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = shape.model(_config(shape, tokenizer))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(IM_END)
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(shape.preprocessor))


def _config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Any:
    ids = tokenizer.convert_tokens_to_ids
    text = _TEXT | shape.text | {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": ids(IM_END)}
    return shape.config(
        text_config=text,
        vision_config=shape.vision,
        image_token_id=ids(IMAGE_PAD),
        video_token_id=ids(VIDEO_PAD),
        vision_start_token_id=ids(VISION_START),
        vision_end_token_id=ids(VISION_END),
        tie_word_embeddings=False,
    )
