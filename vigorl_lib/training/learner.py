"""A model ready to be trained: loaded, its frozen tower set aside, under the engine, with its images at hand.

What SFT and GRPO share between "here are samples" and "here are their log-probabilities".
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vigorl_lib.errors import ConfigError
from vigorl_lib.models.loading import DType, LoadedModel, load_model
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.training.batches import MicroBatch, Sample, collate_samples
from vigorl_lib.training.config import EngineConfig
from vigorl_lib.training.engine import Engine
from vigorl_lib.training.lora import add_adapters, merged
from vigorl_lib.training.module import VISION, ImageInputs, LogProbModule, detach_vision, is_named
from vigorl_lib.training.order import Limits, Prompt, plan_micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DTYPES: dict[str, DType] = {"fp32": "float32", "bf16": "bfloat16"}
_ENCODED_CACHE_BYTES = 32 << 20
"""Encoded images are needed once, to be decoded."""


class Learner:
    """One rank's part of a training run."""

    def __init__(
        self,
        init: str,
        config: EngineConfig,
        images: Storage,
        *,
        device: torch.device,
        total_steps: int,
        with_reference: bool = False,
    ) -> None:
        self.config = config
        self.loaded = load_model(init, dtype=_DTYPES[config.dtype], device=str(device))
        _check_names(self.loaded, config)
        # Of a layer's two costs, products with weights take 12 * width² a token, attention its length * width.
        self._attention = 1.0 / (12 * self.loaded.model.config.get_text_config().hidden_size)
        self._tower = detach_vision(self.loaded.model) if VISION in config.freeze else None
        self._reference: LogProbModule | None = None
        if with_reference:
            self._reference = self._module(copy.deepcopy(self.loaded.model)).requires_grad_(False).eval()
        if config.lora.rank:
            add_adapters(self.loaded.model, config.lora)
        self.engine = Engine(self._module(self.loaded.model), config, total_steps=total_steps)
        self._images = ImageInputs(
            self.loaded,
            ImageStore(images, _ENCODED_CACHE_BYTES),
            self._tower,
            view_cache_bytes=config.view_cache_bytes,
            feature_cache_bytes=config.feature_cache_bytes,
        )

    def plan(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Indexes of this rank's micro-batches of a global batch; their number is the same on every rank."""
        prompts = [Prompt(sample.prompt_key, sample.prompt_tokens) for sample in samples]
        return self.assign([len(sample) for sample in samples], prompts)[self.engine.rank]

    def assign(
        self, lengths: Sequence[int], prompts: Sequence[Prompt] = (), *, world: int = 0
    ) -> list[list[list[int]]]:
        """Indexes into the samples of these lengths and prompts, by rank and micro-batch; for all ranks, or `world`."""
        return plan_micro_batches(
            lengths,
            world or self.engine.world,
            Limits(self.config.micro_batch, self.config.micro_batch_tokens),
            prompts=prompts,
            attention=self._attention,
        )

    def collate(self, samples: Sequence[Sample], indexes: Sequence[int]) -> MicroBatch:
        """One micro-batch of a plan, on this rank's device."""
        # A rank without samples of its own still takes part in the pass, with one that trains nothing.
        chosen = [samples[index] for index in indexes] or [samples[0].untrained()]
        batch = collate_samples(chosen, resize=self.loaded.resize)
        return batch.to(self.engine.device)

    def load_images(self, samples: Sequence[Sample], indexes: Sequence[int]) -> None:
        """Decode the images of a micro-batch ahead of time, on any thread. Raises ObjectNotFound, DataError."""
        for index in indexes:
            self._images.load([span.image for span in samples[index].sequence.image_spans])

    def logprobs(self, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
        """Log-probabilities, [N], of the trained tokens under the weights of now, with gradient if that is on."""
        return self.engine.logprobs(batch, self._images.of(batch.inputs.images), temperature)

    @torch.no_grad()
    def reference_logprobs(self, batch: MicroBatch, temperature: float = 1.0) -> Tensor:
        """The same under the weights that the run started from."""
        assert self._reference is not None
        reference: Tensor = self._reference(batch, self._images.of(batch.inputs.images), temperature)
        return reference

    def weights(self, *, averaged: bool = False) -> dict[str, Tensor]:
        """All weights of the model, its tower included, by the model's own names; empty on other ranks than 0.

        `averaged` as for `Engine.weights`.
        """
        weights = dict(merged(self.engine.weights(averaged=averaged), self.config.lora.alpha))
        if self._tower is not None and self.engine.rank == 0:
            weights |= {name: tensor.detach().cpu() for name, tensor in self._tower.named_parameters()}
        return weights

    def _module(self, model: PreTrainedModel) -> LogProbModule:
        return LogProbModule(model, self.loaded.image_processor)


def resolve_uri(storage: Storage, uri: str) -> str:
    """A URI or an absolute or explicitly relative path as it is; anything else is a key below the root."""
    if "://" in uri or uri.startswith(("/", "./", "../")):
        return uri
    return f"{storage.uri.rstrip('/')}/{uri}"


def _check_names(loaded: LoadedModel, config: EngineConfig) -> None:
    names = [name for name, _ in loaded.model.named_parameters()]
    adapted = config.lora.modules if config.lora.rank else ()
    for key, modules in (("freeze", config.freeze), ("module_lr", tuple(config.module_lr)), ("lora.modules", adapted)):
        for module in modules:
            if not any(is_named(name, module) for name in names):
                raise ConfigError(
                    f"{key}: expected the name of a module of the model, found {module!r}", reason="MODULE_UNKNOWN"
                )
