"""What the vision tower makes of images, computed once per image and version of the weights.

Turns of a conversation and samples of a group show the same images again and again; their features are the
same as long as the tower's weights are. `FeatureCache` must be cleared when those change. A tower that is being
trained cannot be cached: then call `encode` with gradients on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.image import Image
from vigorl_lib.models.pixels import View, to_patches

if TYPE_CHECKING:
    from transformers import Qwen2VLImageProcessorPil

DEFAULT_FEATURE_CACHE_BYTES = 256 << 20

MAX_PATCHES_PER_PASS = 16_384
"""Patches that go through the tower together at most; bounds the memory of one pass."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Of one image: `pooled` [visual tokens, width], and the intermediate maps that Qwen3-VL injects."""

    pooled: Tensor
    deepstack: tuple[Tensor, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.pooled, *self.deepstack))


def encode(
    model: Any,
    views: Sequence[View],
    processor: Qwen2VLImageProcessorPil,
    *,
    max_patches: int | None = MAX_PATCHES_PER_PASS,
) -> list[ImageFeatures]:
    """Features of some views, in order; gradients flow if they are on. Without `max_patches` in exactly one pass."""
    features: list[ImageFeatures] = []
    group: list[View] = []
    patches = 0
    area = processor.patch_size**2
    for view in views:
        count = view.shape[0] * view.shape[1] // area
        if group and max_patches is not None and patches + count > max_patches:
            features += _encode_group(model, group, processor)
            group, patches = [], 0
        group.append(view)
        patches += count
    return features + _encode_group(model, group, processor) if group else features


def _encode_group(model: Any, views: list[View], processor: Qwen2VLImageProcessorPil) -> list[ImageFeatures]:
    pixel_values, grid = to_patches(views, processor)
    output = model.get_image_features(pixel_values.to(model.device), grid.to(model.device), return_dict=True)
    deepstack = getattr(output, "deepstack_features", None) or []
    return [
        ImageFeatures(pooled, tuple(level[index] for level in deepstack))
        for index, pooled in enumerate(output.pooler_output)
    ]


def encoder_outputs(features: Sequence[ImageFeatures]) -> dict[str, Any]:
    """Features as the models' `forward` takes them, in place of pixels: `mm_encoder_outputs`."""
    if not features:
        return {}
    pooled: Any = tuple(item.pooled for item in features)
    if not features[0].deepstack:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    levels: Any = [list(level) for level in zip(*(item.deepstack for item in features), strict=True)]
    return {"image": BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=levels)}


class FeatureCache:
    """Features by image digest, bounded by bytes. For one thread."""

    def __init__(self, *, max_bytes: int = DEFAULT_FEATURE_CACHE_BYTES) -> None:
        self._features: ByteCache[ImageFeatures] = ByteCache(max_bytes, lambda features: features.size_bytes)

    def __contains__(self, image: Image) -> bool:
        return image.sha256 in self._features

    def clear(self) -> None:
        self._features.clear()

    @torch.no_grad()
    def get(
        self, model: Any, images: Sequence[Image], views: dict[str, View], processor: Qwen2VLImageProcessorPil
    ) -> list[ImageFeatures]:
        """Features of `images` in order; what is missing is computed in one pass from `views`, by digest."""
        wanted = dict.fromkeys(image.sha256 for image in images)
        found = {digest: features for digest in wanted if (features := self._features.get(digest)) is not None}
        missing = [digest for digest in wanted if digest not in found]
        fresh = encode(model, [views[digest] for digest in missing], processor)
        for digest, features in zip(missing, fresh, strict=True):
            found[digest] = self._features.put(digest, features)
        return [found[image.sha256] for image in images]
