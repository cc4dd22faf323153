"""Group-relative policy optimisation: the learner.

For each step it reads the groups that the producer committed, makes one optimiser step or more on them and
publishes the new weights. It samples nothing and calls no service. All ranks read the same groups and make
the same plan; rank 0 writes. After a kill it repeats the steps since its last checkpoint on the same
groups; weights that are out already are not written again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vigorl_lib.errors import ConfigError, StorageError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.batches import Sample, sample_of
from vigorl_lib.training.checkpoint import has_model, model_uri
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.engine import distributed
from vigorl_lib.training.groups import Group, StepGroups, read_step, rollout_metrics
from vigorl_lib.training.learner import Learner, resolve_uri
from vigorl_lib.training.loop import OnStep, run_stage
from vigorl_lib.training.losses import ClipRange, group_advantages, importance_weights, kl_k3, policy_loss
from vigorl_lib.training.order import padding_share
from vigorl_lib.training.transfer import WeightSender, hurry_weights
from vigorl_lib.training.weights import publish_weights

POLL_S = 0.02
MAX_POLL_S = 1.0


def train_grpo(
    config: GrpoConfig,
    *,
    temperature: float,
    storage: Storage,
    run_id: str,
    sender: WeightSender | None = None,
    on_step: OnStep | None = None,
) -> str:
    """Train on the groups that a producer commits to the same run; returns the URI of the final model.

    `temperature` is the one that was sampled with; `sender` brings new weights to the replicas before storage does.
    Raises ConfigError, PolicyError, StorageError
    (GROUPS_TIMEOUT when no producer delivers).
    """
    layout = RunLayout(storage, run_id)
    if has_model(layout):
        return model_uri(layout)
    if not config.init:
        raise ConfigError("init: expected the model to start from, found none", reason="INIT_MISSING")
    if temperature <= 0.0:
        raise ConfigError("task.temperature: GRPO needs rollouts that differ, found 0", reason="TEMPERATURE_INVALID")
    with distributed(config.engine.threads) as device:
        return _Grpo(config, temperature, layout, device, sender).run(on_step)


class _Grpo:
    def __init__(
        self,
        config: GrpoConfig,
        temperature: float,
        layout: RunLayout,
        device: torch.device,
        sender: WeightSender | None,
    ) -> None:
        self._config, self._temperature, self._layout = config, temperature, layout
        self._sender = sender
        self._init = resolve_uri(layout.storage, config.init)
        self._clip = ClipRange(config.clip_low, config.clip_high, config.clip_dual)
        self._learner = Learner(
            self._init,
            config.engine,
            layout.storage,
            device=device,
            total_steps=config.steps * config.updates,
            with_reference=config.kl_coef > 0.0,
        )

    def run(self, on_step: OnStep | None) -> str:
        return run_stage(
            self._learner,
            self._layout,
            init=self._init,
            steps=self._config.steps,
            step=self._step,
            checkpoint=self._config.checkpoint,
            log_every=self._config.log_every,
            on_step=on_step,
        )

    def _step(self, step: int) -> dict[str, float]:
        times = [time.perf_counter()]
        groups = self._wait_for_groups(step)
        times.append(time.perf_counter())
        record = rollout_metrics(groups)
        if groups.chosen:
            record |= self._update(step, groups.chosen)
        times.append(time.perf_counter())
        weights = self._learner.weights()
        if self._learner.engine.rank == 0:
            if self._sender is not None:
                hurry_weights(self._sender, self._layout, step + 1, weights)
            publish_weights(self._layout, step + 1, weights, keep=self._config.max_policy_lag + 2)
        times.append(time.perf_counter())
        seconds = np.diff(times).tolist()
        return record | dict(zip(("wait_s", "update_s", "publish_s"), seconds, strict=True))

    def _wait_for_groups(self, step: int) -> StepGroups:
        """The committed groups of a step, as soon as they are there."""
        deadline, pause = time.monotonic() + self._config.wait_timeout_s, POLL_S
        while (groups := read_step(self._layout, step)) is None:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"waited {self._config.wait_timeout_s:.0f} s for the rollouts of step {step} under "
                    f"{self._layout.trajectories_of(step)}: is the producer running?",
                    reason="GROUPS_TIMEOUT",
                )
            time.sleep(pause)
            pause = min(pause * 1.2, MAX_POLL_S)
        return groups

    def _update(self, step: int, groups: Sequence[Group]) -> dict[str, float]:
        """One pass over the groups, in `updates` optimiser steps of whole groups each."""
        learner, updates = self._learner, min(self._config.updates, len(groups))
        parts = [self._samples(groups[number::updates]) for number in range(updates)]
        plans = [learner.plan(samples) for samples in parts]
        # The first update starts from the old weights, so its own pass gives their log-probs.
        old = [None, *(self._old_logprobs(*part) for part in zip(parts[1:], plans[1:], strict=True))]
        sums: dict[str, float] = {}
        for number, (samples, plan) in enumerate(zip(parts, plans, strict=True)):
            for name, value in self._accumulate(samples, plan, old[number]).items():
                sums[name] = sums.get(name, 0.0) + value
            learning_rate, norm = learner.engine.step(step * self._config.updates + number)
        sums = learner.engine.sum(sums)
        tokens = sums.pop("tokens")
        lengths = [len(sample) for samples in parts for sample in samples]
        return {
            "loss": sums.pop("loss") / updates,
            **{name: value / tokens for name, value in sums.items()},
            "trained_tokens": tokens,
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "padding_share": padding_share([len(sample) for sample in parts[0]], plans[0]),
            "tokens": sum(lengths),
        }

    def _accumulate(
        self, samples: Sequence[Sample], plan: Sequence[Sequence[int]], old: Sequence[Tensor] | None
    ) -> dict[str, float]:
        """Gradients of one optimiser step; returns the loss and sums over this rank's trained tokens."""
        learner, config = self._learner, self._config
        normaliser = sum(sample.trained_tokens for sample in samples)
        sums = dict.fromkeys(("loss", "tokens", "clip_share", "kl", "mismatch", "mismatch_kl", "importance"), 0.0)
        for number, indexes in enumerate(plan):
            batch = learner.collate(samples, indexes)
            logprobs = learner.logprobs(batch, self._temperature)
            before = logprobs.detach() if old is None else old[number]
            ratio = importance_weights(before, batch.sampler_logprobs, config.importance_cap or float("inf"))
            result = policy_loss(
                logprobs,
                before,
                batch.advantages,
                clip=self._clip,
                normaliser=normaliser,
                weights=ratio if config.importance_cap else None,
                reference=learner.reference_logprobs(batch, self._temperature) if config.kl_coef else None,
                kl_coef=config.kl_coef,
            )
            learner.engine.backward(result.loss)
            sums["loss"] += float(result.loss.detach())
            sums["tokens"] += len(before)
            sums["clip_share"] += float(result.clipped)
            sums["kl"] += float(result.kl)
            sums["mismatch"] += float((before - batch.sampler_logprobs).abs().sum())
            sums["mismatch_kl"] += float(kl_k3(batch.sampler_logprobs, before).sum())
            sums["importance"] += float(ratio.sum())
        return sums

    @torch.no_grad()
    def _old_logprobs(self, samples: Sequence[Sample], plan: Sequence[Sequence[int]]) -> list[Tensor]:
        batches = (self._learner.collate(samples, indexes) for indexes in plan)
        return [self._learner.logprobs(batch, self._temperature) for batch in batches]

    def _samples(self, groups: Sequence[Group]) -> list[Sample]:
        samples = []
        for group in groups:
            rewards = [trajectory.reward or 0.0 for trajectory in group.scored]
            advantages = group_advantages(rewards, self._config.advantage)
            for trajectory, advantage in zip(group.scored, advantages, strict=True):
                samples.append(sample_of(trajectory.segments, name=trajectory.trajectory_id, advantage=advantage))
        return samples
