"""The model families that the library speaks: what differs between Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

A family is facts only: class name, patch geometry, the frame that its points are written in and the names
of its vision tokens. Everything that a checkpoint may choose (pixel limits, vocabulary, weights) is read
from the checkpoint by `vigorl_lib.models.loading`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vigorl_lib.domain.geometry import Frame
from vigorl_lib.errors import PolicyError

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"


@dataclass(frozen=True, slots=True)
class Family:
    """One family. `patch_size` is in pixels, `merge_size` in patches per side of a visual token."""

    name: str
    """`model_type` in config.json."""
    architecture: str
    """Class in transformers, as config.json names it."""
    patch_size: int
    point_frame: Frame
    """The frame that the released checkpoints were taught to write points in."""
    merge_size: int = 2

    @property
    def factor(self) -> int:
        """Side of one visual token, pixels."""
        return self.patch_size * self.merge_size


QWEN2_VL = Family("qwen2_vl", "Qwen2VLForConditionalGeneration", 14, Frame.NORMALIZED)
QWEN2_5_VL = Family("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", 14, Frame.MODEL)
QWEN3_VL = Family("qwen3_vl", "Qwen3VLForConditionalGeneration", 16, Frame.NORMALIZED)
FAMILIES = {family.name: family for family in (QWEN2_VL, QWEN2_5_VL, QWEN3_VL)}


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The declared family whose whole model config.json describes; None for any other model, or for a part of one."""
    family = FAMILIES.get(str(config.get("model_type", "")))
    # A part of the model, or one with another head, has the same model_type.
    if family is None or family.architecture not in (config.get("architectures") or [family.architecture]):
        return None
    return family


def family_of(config: Mapping[str, Any]) -> Family:
    """As `find_family`, for callers that need one. Raises PolicyError (CHECKPOINT_UNSUPPORTED)."""
    family = find_family(config)
    if family is None:
        model_type = str(config.get("model_type", ""))
        found = ", ".join(map(str, config.get("architectures") or ()))
        raise PolicyError(
            f"expected a checkpoint of one of {', '.join(one.architecture for one in FAMILIES.values())}, "
            f"found {found or 'no architecture'} with model_type {model_type!r}",
            reason="CHECKPOINT_UNSUPPORTED",
            model_type=model_type,
        )
    return family
