"""Supervised fine-tuning: the mean log-likelihood of demonstrated turns, over a mixture of chains.

Chains are tokenised exactly once, for the student. Started again after a kill, the same call continues with
the same next batch and the same loss; once the model is committed it returns at once. Captions, which give
a tiny model its eyes, are chains like any other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from itertools import islice
from typing import NamedTuple

import torch

from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.batches import MicroBatch, Sample, sample_of
from vigorl_lib.training.checkpoint import has_model, model_uri
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.engine import distributed
from vigorl_lib.training.learner import Learner, resolve_uri
from vigorl_lib.training.loop import OnStep, run_stage
from vigorl_lib.training.losses import cross_entropy
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.order import batches, draws, padding_share
from vigorl_lib.training.prefetch import prefetched
from vigorl_lib.training.sources import read_source
from vigorl_lib.training.throughput import Throughput


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


class _Prepared(NamedTuple):
    """One step's samples, this rank's plan of them, and the micro-batches of the plan."""

    samples: list[Sample]
    plan: list[list[int]]
    micro_batches: list[MicroBatch]


class _Sft:
    def __init__(self, config: SftConfig, layout: RunLayout, seed: int, device: torch.device) -> None:
        self._config, self._layout, self._seed = config, layout, seed
        self._init = resolve_uri(layout.storage, config.init)
        chains = [read_source(layout.storage, source) for source in config.sources]
        self._steps = config.steps or math.ceil(config.epochs * sum(map(len, chains)) / config.batch)
        self._learner = Learner(self._init, config.engine, layout.storage, device=device, total_steps=self._steps)
        self._throughput = Throughput(
            self._learner.loaded.model.config, device=device, world=self._learner.engine.world
        )
        if config.batch % self._learner.engine.world:
            raise ConfigError(
                f"batch: expected a multiple of the {self._learner.engine.world} ranks, found {config.batch}",
                reason="BATCH_INVALID",
            )
        renderer = self._learner.loaded.renderer
        self._samples = [sample for source in chains for sample in _tokenise(source, renderer)]
        stream = draws([len(source) for source in chains], [source.weight for source in config.sources], seed)
        self._batches = batches(stream, config.batch)
        self._prepared: Generator[_Prepared] | None = None
        self._losses: list[float] = []
        validation = [chain for source in config.validation for chain in read_source(layout.storage, source)]
        self._validation = _tokenise(validation, renderer)

    def run(self, on_step: OnStep | None) -> str:
        try:
            return run_stage(
                self._learner,
                self._layout,
                init=self._init,
                steps=self._steps,
                step=self._step,
                checkpoint=self._config.checkpoint,
                log_every=self._config.log_every,
                on_resume=self._resume,
                is_done=self._no_longer_improves,
                on_step=on_step,
            )
        finally:
            if self._prepared is not None:
                self._prepared.close()

    def _resume(self, first: int) -> None:
        """Go to the position of step `first`, which follows from its number and the metrics on record."""
        remaining = islice(self._batches, first, self._steps)
        self._prepared = prefetched(remaining, self._prepare, ahead=self._config.prefetch)
        before = read_metrics(self._layout)[:first] if first else []
        self._losses = [record["validation_loss"] for record in before if "validation_loss" in record]

    def _no_longer_improves(self) -> bool:
        patience = self._config.patience
        return 0 < patience < len(self._losses) and min(self._losses[:-patience]) <= min(self._losses[-patience:])

    def _prepare(self, indexes: list[int]) -> _Prepared:
        samples = [self._samples[index] for index in indexes]
        plan = self._learner.plan(samples)
        for micro_batch in plan:
            self._learner.load_images(samples, micro_batch)
        return _Prepared(samples, plan, [self._learner.collate(samples, micro_batch) for micro_batch in plan])

    def _step(self, step: int) -> dict[str, float]:
        assert self._prepared is not None
        learner, begin = self._learner, time.perf_counter()
        samples, plan, micro_batches = next(self._prepared)
        waited = time.perf_counter() - begin
        trained = sum(sample.trained_tokens for sample in samples)
        loss = 0.0
        for micro_batch in micro_batches:
            part = cross_entropy(learner.logprobs(micro_batch), trained)
            learner.engine.backward(part)
            loss += float(part.detach())
        learning_rate, norm = learner.engine.step(step)
        seconds = time.perf_counter() - begin
        lengths = [len(sample) for sample in samples]
        record = {
            **learner.engine.sum({"loss": loss}),
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "skipped": learner.engine.skipped,
            "tokens": sum(lengths),
            "trained_tokens": trained,
            "padding_share": padding_share(lengths, plan),
            "seconds": seconds,
            "wait_s": waited,
            **self._throughput.metrics(lengths, trained, seconds),
        }
        if self._validation and _due(step + 1, self._config.evaluate_every, self._steps):
            record["validation_loss"] = self._validation_loss()
            self._losses.append(record["validation_loss"])
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


def _tokenise(chains: Sequence[Trajectory], renderer: ChatRenderer) -> list[Sample]:
    return [sample_of(renderer.render(chain.segments), name=chain.trajectory_id) for chain in chains]


def _due(done: int, every: int, steps: int) -> bool:
    return done == steps or (every > 0 and done % every == 0)
