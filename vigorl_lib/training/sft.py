"""Supervised fine-tuning: the mean log-likelihood of demonstrated turns, over a mixture of chains.

Chains are tokenised exactly once, for the student. Started again after a kill, the same call continues with
the same next batch and the same loss; once the model is committed it returns at once. Captions, which give
a tiny model its eyes, are chains like any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from vigorl_lib.data.chains import read_chains
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.weights import open_parent
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.batches import Sample, sample_of
from vigorl_lib.training.checkpoint import has_model, model_uri
from vigorl_lib.training.config import ChainSource, SftConfig
from vigorl_lib.training.engine import distributed
from vigorl_lib.training.learner import Learner, resolve_uri
from vigorl_lib.training.loop import OnStep, run_stage
from vigorl_lib.training.losses import cross_entropy
from vigorl_lib.training.order import batches, draws, padding_share


def train_sft(config: SftConfig, *, storage: Storage, run_id: str, seed: int, on_step: OnStep | None = None) -> str:
    """Train, and return the URI of the model in Hugging Face format.

    Raises ConfigError, DataError, PolicyError and StorageError before the first step where settings, chains
    or the initial model are wrong.
    """
    layout = RunLayout(storage, run_id)
    if has_model(layout):
        return model_uri(layout)
    _check(config)
    with distributed(config.engine.threads) as device:
        return _Sft(config, layout, seed, device).run(on_step)


class _Sft:
    def __init__(self, config: SftConfig, layout: RunLayout, seed: int, device: torch.device) -> None:
        self._config, self._layout, self._seed = config, layout, seed
        self._init = resolve_uri(layout.storage, config.init)
        chains = [_read(layout.storage, source) for source in config.sources]
        self._steps = config.steps or math.ceil(config.epochs * sum(map(len, chains)) / config.batch)
        self._learner = Learner(self._init, config.engine, layout.storage, device=device, total_steps=self._steps)
        if config.batch % self._learner.engine.world:
            raise ConfigError(
                f"batch: expected a multiple of the {self._learner.engine.world} ranks, found {config.batch}",
                reason="BATCH_INVALID",
            )
        renderer = self._learner.loaded.renderer
        self._samples = [sample for source in chains for sample in _tokenise(source, renderer)]
        lengths = np.array([len(sample) for sample in self._samples], dtype=np.int64)
        stream = draws([len(source) for source in chains], [source.weight for source in config.sources], seed)
        self._batches = batches(stream, lengths, config.batch, config.length_window, seed)
        validation = [chain for source in config.validation for chain in _read(layout.storage, source)]
        self._validation = _tokenise(validation, renderer)

    def run(self, on_step: OnStep | None) -> str:
        return run_stage(
            self._learner,
            self._layout,
            init=self._init,
            steps=self._steps,
            step=self._step,
            checkpoint=self._config.checkpoint,
            log_every=self._config.log_every,
            on_resume=self._skip,
            on_step=on_step,
        )

    def _skip(self, steps: int) -> None:
        for _ in islice(self._batches, steps):
            pass

    def _step(self, step: int) -> dict[str, float]:
        learner, begin = self._learner, time.perf_counter()
        samples = [self._samples[index] for index in next(self._batches)]
        trained = sum(sample.trained_tokens for sample in samples)
        loss = 0.0
        plan = learner.plan(samples)
        for indexes in plan:
            part = cross_entropy(learner.logprobs(learner.collate(samples, indexes)), trained)
            learner.engine.backward(part)
            loss += float(part.detach())
        learning_rate, norm = learner.engine.step(step)
        seconds = time.perf_counter() - begin
        lengths = [len(sample) for sample in samples]
        record = {
            **learner.engine.sum({"loss": loss}),
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "tokens": sum(lengths),
            "trained_tokens": trained,
            "padding_share": padding_share(lengths, plan),
            "seconds": seconds,
            "tokens_per_s": sum(lengths) / seconds,
        }
        if self._validation and _due(step + 1, self._config.evaluate_every, self._steps):
            record["validation_loss"] = self._validation_loss()
        return record

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Mean over all trained tokens of the validation chains, nats."""
        learner, samples = self._learner, self._validation
        trained = sum(sample.trained_tokens for sample in samples)
        batches = (learner.collate(samples, indexes) for indexes in learner.plan(samples))
        loss = sum(float(cross_entropy(learner.logprobs(batch), trained)) for batch in batches)
        return learner.engine.sum({"loss": loss})["loss"]


def _check(config: SftConfig) -> None:
    if not config.init:
        raise ConfigError("init: expected the model to start from, found none", reason="INIT_MISSING")
    if not config.sources:
        raise ConfigError("sources: expected at least one source of chains, found none", reason="SOURCES_MISSING")
    if not config.steps and not config.epochs:
        raise ConfigError("expected `steps` or `epochs` above 0", reason="STEPS_MISSING")


def _read(storage: Storage, source: ChainSource) -> list[Trajectory]:
    """Chains of a source, without their images' bytes. Raises DataError (CHAINS_MISSING) where none are left."""
    where, key = storage, source.chains
    if resolve_uri(storage, key) == key:
        where, key = open_parent(key)
    chains = [chain for chain in read_chains(where, key) if not source.modes or chain.mode in source.modes]
    if not chains:
        wanted = " or ".join(source.modes) or "any mode"
        raise DataError(f"{source.chains}: expected chains of {wanted}, found none", reason="CHAINS_MISSING")
    return chains[: source.limit or None]


def _tokenise(chains: Sequence[Trajectory], renderer: ChatRenderer) -> list[Sample]:
    return [sample_of(renderer.render(chain.segments), name=chain.trajectory_id) for chain in chains]


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)
