"""The module that is trained: a vision-language model that answers with log-probabilities of chosen tokens.

Hidden states become logits only where a token is trained, which for short answers behind long prompts and
images is most of the cost of the last layer. A frozen vision tower is taken out (`detach_vision`): it stays
whole on each rank, outside the engine, and gives features that are computed once per image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vigorl_lib.domain.image import Image
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.features import FeatureCache, ImageFeatures, encode, encoder_outputs
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.packing import use_packed_attention
from vigorl_lib.models.pixels import View, ViewCache
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.training.batches import MicroBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Qwen2VLImageProcessorPil

VISION = "visual"
"""Name of the vision tower's module in every family."""


class LogProbModule(nn.Module):
    """`forward` gives the log-probability, [N], of each trained token of a micro-batch."""

    def __init__(self, model: PreTrainedModel, processor: Qwen2VLImageProcessorPil) -> None:
        super().__init__()
        use_packed_attention(model)
        self.model = model
        self._processor = processor

    def forward(
        self, batch: MicroBatch, images: Sequence[ImageFeatures] | dict[str, View], temperature: float = 1.0
    ) -> Tensor:
        """`images` are the features of `batch.inputs.images` in order, or views by digest to encode with gradients.

        Ranks whose parameters are partitioned must run the same modules equally often. So a trained tower runs
        exactly once, each distinct image through it once; without images it sees a blank one, with weight 0.
        """
        if not isinstance(images, dict):
            return self._logprobs(batch, images, temperature)
        encoded = encode(self.model, list(images.values()) or [self._blank()], self._processor, max_patches=None)
        if not images:
            return self._logprobs(batch, [], temperature) + 0.0 * _total(encoded[0])
        features = dict(zip(images, encoded, strict=True))
        return self._logprobs(batch, [features[image.sha256] for image in batch.inputs.images], temperature)

    def _logprobs(self, batch: MicroBatch, features: Sequence[ImageFeatures], temperature: float) -> Tensor:
        hidden: Tensor = self.model.model(
            input_ids=batch.inputs.input_ids,
            position_ids=batch.inputs.position_ids,
            packing=batch.inputs.packing,
            mm_encoder_outputs=encoder_outputs(features),
            use_cache=False,
        ).last_hidden_state
        logits = self.model.lm_head(hidden[0, batch.places]).float()
        return -cross_entropy(logits / temperature, batch.labels, reduction="none")

    def _blank(self) -> View:
        """The smallest view, one visual token."""
        side = self._processor.patch_size * self._processor.merge_size
        return np.zeros((side, side, 3), dtype=np.uint8)


class ImageInputs:
    """Gives the module its images: features of a frozen tower from a cache, or views for one that is trained."""

    def __init__(
        self,
        loaded: LoadedModel,
        images: ImageStore,
        tower: PreTrainedModel | None,
        *,
        view_cache_bytes: int,
        feature_cache_bytes: int,
    ) -> None:
        self._tower = tower
        self._store = images
        self._processor = loaded.image_processor
        self._views = ViewCache(loaded.resize, max_bytes=view_cache_bytes)
        self._features = FeatureCache(max_bytes=feature_cache_bytes)

    def of(self, images: Sequence[Image]) -> Sequence[ImageFeatures] | dict[str, View]:
        """What `LogProbModule.forward` takes for these images. Raises ObjectNotFound, DataError."""
        if self._tower is None:
            return {image.sha256: self._view(image) for image in images}
        missing = {image.sha256: self._view(image) for image in images if image not in self._features}
        return self._features.get(self._tower, images, missing, self._processor)

    def load(self, images: Sequence[Image]) -> None:
        """Decode the views that `of` will want, ahead of time and on any thread. Raises as `of`."""
        for image in images:
            if image not in self._features:
                self._view(image)

    def _view(self, image: Image) -> View:
        try:
            return self._views.get(image)
        except PolicyError as error:
            if error.reason != "IMAGE_NOT_CACHED":
                raise
            return self._views.get(self._store.load(image))


def detach_vision(model: PreTrainedModel) -> PreTrainedModel:
    """Take the vision tower out of a model; returned is a model of the same class that has nothing but the tower."""
    tower: PreTrainedModel = copy.copy(model)
    inner = copy.copy(model.model)
    # A shallow copy shares its table of submodules with the original.
    inner._modules = {VISION: model.model._modules.pop(VISION)}
    tower._modules = {"model": inner}
    tower.requires_grad_(False)
    return tower


def _total(features: ImageFeatures) -> Tensor:
    """Sum of all that the tower gave, so that each of its parameters gets a gradient."""
    return torch.stack([tensor.sum() for tensor in (features.pooled, *features.deepstack)]).sum()


def is_named(parameter: str, module: str) -> bool:
    """Whether a parameter belongs to the module of this name: some consecutive dotted parts of its own name.

    >>> is_named("model.visual.patch_embed.proj.weight", "patch_embed")
    True
    """
    return f".{module}." in f".{parameter}"
