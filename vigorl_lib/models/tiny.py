"""The tiny model: the real Qwen2.5-VL architecture, half a million random parameters, in Hugging Face format.

It exists so that the whole system runs and learns on two processor cores. It knows nothing until it is
trained; `vigorl_lib.data.synthetic` holds the task that it can learn. The folder loads with the usual
`from_pretrained` of `AutoConfig`, `AutoTokenizer`, `AutoImageProcessor` and `AutoModelForImageTextToText`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.models import families, tiny_tokenizer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

RESIZE = ResizeRule(factor=28, min_pixels=28 * 28, max_pixels=112 * 112)
"""A 448x448 scene becomes a view of 112x112 pixels, 16 visual tokens."""

MAX_CONTEXT_TOKENS = 1024
VISION_WIDTH = 64


def build_tiny(folder: Path, *, seed: int) -> None:
    """Write a randomly initialised model, its tokenizer and its image processor into `folder`."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    tokenizer = tiny_tokenizer.build_tokenizer()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model: Any = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer))  # type: ignore[no-untyped-call]
        model.model.visual.patch_embed.proj.weight.copy_(_patch_filters())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        size={"shortest_edge": RESIZE.min_pixels, "longest_edge": RESIZE.max_pixels},
        patch_size=14,
        merge_size=2,
        temporal_patch_size=2,
    ).save_pretrained(folder)


def _patch_filters() -> Tensor:
    """Initial filters of the patch embedding, [64, 3, 2, 14, 14].

    Neighbouring pixels are so alike that white-noise filters see little but a patch's mean colour, and unlearning
    that takes longer than all the rest. So 48 filters begin as soft 4x4 averages of each colour channel without
    the patch mean, 3 as the mean of each channel, and the others as faint noise.
    """
    import torch

    grid, patch, frames, gain, softness, noise = 4, 14, 2, 4.0, 1.6, 0.02
    centers = (torch.arange(grid) + 0.5) * patch / grid
    bumps = torch.exp(-((torch.arange(patch) + 0.5 - centers[:, None]) ** 2) / (2 * softness**2))
    bumps /= bumps.sum(1, keepdim=True)
    local = torch.einsum("iy,jx->ijyx", bumps, bumps).flatten(0, 1) - 1 / patch**2
    filters = torch.randn(VISION_WIDTH, 3, frames, patch, patch) * noise
    filters[: 3 * (len(local) + 1)] = 0
    for channel in range(3):
        rows = slice(channel * len(local), (channel + 1) * len(local))
        filters[rows, channel] = gain / frames * local[:, None]
        filters[3 * len(local) + channel, channel] = gain / frames / patch**2
    return filters


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Shape of the tiny model.

    Two choices matter for learning from nothing and differ from the released models. The rope base is 3 and
    the axes of the image take nearly all frequencies, because with the usual base the lowest ones, which
    encode the columns, hardly turn over a grid of 4x4 tokens. Every vision layer attends to the whole image.
    Embeddings are untied, because weights tied in memory cannot be replaced in place in every engine.
    """
    from transformers import Qwen2_5_VLConfig

    def token(text: str) -> int:
        index = tokenizer.convert_tokens_to_ids(text)
        assert isinstance(index, int)
        return index

    end_of_turn, padding = token(families.IM_END), token(tiny_tokenizer.END_OF_TEXT)
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": MAX_CONTEXT_TOKENS,
            "rope_parameters": {"rope_type": "default", "rope_theta": 3.0, "mrope_section": [2, 7, 7]},
            "initializer_range": 0.08,
            "tie_word_embeddings": False,
            "bos_token_id": padding,
            "eos_token_id": end_of_turn,
            "pad_token_id": padding,
        },
        vision_config={
            "depth": 2,
            "hidden_size": VISION_WIDTH,
            "num_heads": 2,
            "intermediate_size": 128,
            "out_hidden_size": 96,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1],
            "initializer_range": 0.08,
        },
        image_token_id=token(families.IMAGE_PAD),
        video_token_id=token(families.VIDEO_PAD),
        vision_start_token_id=token(families.VISION_START),
        vision_end_token_id=token(families.VISION_END),
        tie_word_embeddings=False,
    )
