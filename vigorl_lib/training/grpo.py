"""Group-relative policy optimisation: the learner.

For each step it reads the groups that the producer committed, makes one optimiser step or more on them and
publishes the new weights. It samples nothing and calls no service. Rank 0 waits for the groups, plans
(`vigorl_lib.training.plan`) and writes; the other ranks read the plan. Passes that a step needs besides its own begin
while its last rollouts are under way. After a kill it repeats the steps since its last checkpoint on the same groups;
weights that are out already are not written again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vigorl_lib.errors import ConfigError, StorageError, VigorlError
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.batches import MicroBatch, Sample, sample_of
from vigorl_lib.training.checkpoint import has_model, model_uri
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.engine import distributed
from vigorl_lib.training.groups import Group, StepGroups, read_groups, read_step, rollout_metrics
from vigorl_lib.training.learner import Learner, resolve_uri
from vigorl_lib.training.loop import OnStep, run_stage
from vigorl_lib.training.losses import ClipRange, importance_weights, kl_k3, policy_loss
from vigorl_lib.training.order import padding_share
from vigorl_lib.training.passes import LogProbPass
from vigorl_lib.training.plan import Rollout, UpdatePlan, compare, plan_updates
from vigorl_lib.training.ranks import from_first, raise_if_stopped
from vigorl_lib.training.throughput import Throughput
from vigorl_lib.training.transfer import WeightSender, hurry_weights
from vigorl_lib.training.weights import publish_weights

POLL_S = 0.02
MAX_POLL_S = 1.0
BEAT_S = 5.0
"""How often waiting ranks hear from rank 0, so that no collective runs into its deadline and SIGTERM is noticed."""

_SUMS = ("loss", "tokens", "clip_share", "kl", "entropy", "mismatch", "mismatch_kl", "importance", "importance_capped")


@dataclass(frozen=True, slots=True)
class Ahead:
    """Positions of groups on record whose passes can be made while their step is not complete."""

    positions: list[int]


def train_grpo(
    config: GrpoConfig,
    *,
    task: TaskConfig,
    storage: Storage,
    run_id: str,
    sender: WeightSender | None = None,
    on_step: OnStep | None = None,
) -> str:
    """Train on the groups that a producer commits to the same run; returns the URI of the final model.

    `task` is what was sampled with; `sender` brings new weights to the replicas before storage does.
    Raises ConfigError, PolicyError, StorageError (GROUPS_TIMEOUT when no producer delivers), StageStopped.
    """
    layout = RunLayout(storage, run_id)
    if has_model(layout):
        return model_uri(layout)
    if not config.init:
        raise ConfigError("init: expected the model to start from, found none", reason="INIT_MISSING")
    if task.temperature <= 0.0:
        raise ConfigError("task.temperature: GRPO needs rollouts that differ, found 0", reason="TEMPERATURE_INVALID")
    with distributed(config.engine.threads) as device:
        return _Grpo(config, task, layout, device, sender).run(on_step)


class _Grpo:
    def __init__(
        self,
        config: GrpoConfig,
        task: TaskConfig,
        layout: RunLayout,
        device: torch.device,
        sender: WeightSender | None,
    ) -> None:
        self._config, self._task, self._layout = config, task, layout
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
        self._throughput = Throughput(
            self._learner.loaded.model.config, device=device, world=self._learner.engine.world
        )
        # The first update starts from the old weights, so its own pass gives their log-probs.
        self._old = self._pass(self._learner.logprobs) if config.updates > 1 else None
        self._reference = self._pass(self._learner.reference_logprobs) if config.kl_coef else None
        self._passes = [each for each in (self._old, self._reference) if each is not None]

    def _pass(self, logprobs: Callable[[MicroBatch, float], Tensor]) -> LogProbPass:
        return LogProbPass(self._learner, lambda batch: logprobs(batch, self._task.temperature))

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
        groups, plan = self._next(step)
        times.append(time.perf_counter())
        record = rollout_metrics(groups)
        if plan:
            record |= self._update(step, groups, plan)
        times.append(time.perf_counter())
        weights = self._learner.weights()
        if self._learner.engine.rank == 0:
            if self._sender is not None:
                hurry_weights(self._sender, self._layout, step + 1, weights)
            publish_weights(self._layout, step + 1, weights, keep=self._config.max_policy_lag + 2)
        times.append(time.perf_counter())
        seconds = np.diff(times).tolist()
        return record | dict(zip(("wait_s", "update_s", "publish_s"), seconds, strict=True))

    def _next(self, step: int) -> tuple[StepGroups, list[UpdatePlan]]:
        """The committed groups of a step, as soon as they are there, and what to do with them.

        Raises StorageError (GROUPS_TIMEOUT), CorruptObject on all ranks, StageStopped.
        """
        deadline = time.monotonic() + self._config.wait_timeout_s
        for each in self._passes:
            each.clear()
        while True:
            raise_if_stopped()
            groups, found = self._look(step, deadline) if self._learner.engine.rank == 0 else (None, None)
            found = from_first(found)
            if isinstance(found, VigorlError):
                raise found
            if isinstance(found, list):
                groups = groups or read_step(self._layout, step)
                assert groups is not None
                return groups, found
            if found is not None and found.positions:
                recorded = read_groups(self._layout, step)
                for each in self._passes:
                    each.run(_rollouts(recorded[position], self._config) for position in found.positions)

    def _look(self, step: int, deadline: float) -> tuple[StepGroups | None, list[UpdatePlan] | Ahead | VigorlError]:
        """What there is to do for a step by the end of a beat, in the eyes of rank 0."""
        try:
            groups = self._poll(step, deadline)
            return groups, self._ahead(step) if groups is None else self._plan(groups)
        except VigorlError as error:
            return None, error

    def _ahead(self, step: int) -> Ahead:
        """The groups on record whose passes can be made although the step is not complete."""
        if not self._passes:
            return Ahead([])
        new = (p for p, group in read_groups(self._layout, step).items() if self._without_pass(group))
        return Ahead(sorted(new))

    def _without_pass(self, group: Group) -> bool:
        return not all(rollout in each for each in self._passes for rollout in _rollouts(group, self._config))

    def _poll(self, step: int, deadline: float) -> StepGroups | None:
        """The committed groups of a step; None if they have not come within a beat."""
        beat, pause = time.monotonic() + BEAT_S, POLL_S
        while (groups := read_step(self._layout, step)) is None and time.monotonic() < min(beat, deadline):
            time.sleep(pause)
            pause = min(pause * 1.2, MAX_POLL_S)
        if groups is None and time.monotonic() >= deadline:
            raise StorageError(
                f"waited {self._config.wait_timeout_s:.0f} s for the rollouts of step {step} under "
                f"{self._layout.trajectories_of(step)}: is the producer running?",
                reason="GROUPS_TIMEOUT",
            )
        return groups

    def _plan(self, groups: StepGroups) -> list[UpdatePlan]:
        return plan_updates(groups, self._config, max_tokens=self._task.max_tokens, assign=self._learner.assign)

    def _update(self, step: int, groups: StepGroups, plan: Sequence[UpdatePlan]) -> dict[str, float]:
        """One pass over the groups, in one optimiser step for each part of the plan."""
        learner, begin = self._learner, time.perf_counter()
        ahead = self._finish_passes(groups, plan)
        parts = [_samples(groups, update) for update in plan]
        sums = dict.fromkeys(_SUMS, 0.0)
        for number, (samples, update) in enumerate(zip(parts, plan, strict=True)):
            for name, value in self._accumulate(samples, update, first=number == 0).items():
                sums[name] += value
            learning_rate, norm = learner.engine.step(step * self._config.updates + number)
        sums = learner.engine.sum(sums)
        tokens = sums.pop("tokens")
        lengths = [len(sample) for samples in parts for sample in samples]
        mine = plan[0].micro_batches[learner.engine.rank]
        return ahead | {
            "loss": sums.pop("loss") / len(plan),
            **{name: value / tokens for name, value in sums.items()},
            "trained_tokens": tokens,
            "trained_samples": len(lengths),
            "learning_rate": learning_rate,
            "grad_norm": norm,
            "skipped": learner.engine.skipped,
            "padding_share": padding_share([len(sample) for sample in parts[0]], mine),
            "tokens": sum(lengths),
            **self._throughput.metrics(lengths, int(tokens), time.perf_counter() - begin),
        }

    def _finish_passes(self, groups: StepGroups, plan: Sequence[UpdatePlan]) -> dict[str, float]:
        """Make the passes that the plan needs and that were not made ahead; the share of those that were."""
        made: list[bool] = []
        for number, update in enumerate(plan):
            rolled = [_rollouts(groups.groups[position], self._config) for position in update.positions]
            for each in self._passes:
                if number or each is not self._old:
                    made += [rollout in each for group in rolled for rollout in group]
                    each.run(rolled)
        return {"passes_ahead_share": sum(made) / len(made)} if made else {}

    def _accumulate(self, samples: Sequence[Sample], update: UpdatePlan, *, first: bool) -> dict[str, float]:
        """Gradients of one optimiser step; returns the loss and sums over this rank's trained tokens."""
        learner, config, temperature = self._learner, self._config, self._task.temperature
        sums = dict.fromkeys(_SUMS, 0.0)
        for indexes in update.micro_batches[learner.engine.rank]:
            batch = learner.collate(samples, indexes)
            rollouts = [update.samples[index].rollout for index in indexes]
            logprobs = learner.logprobs(batch, temperature)
            before = logprobs.detach() if first or self._old is None else self._old.of(rollouts)
            importance = importance_weights(before, batch.sampler_logprobs, config.importance_cap or float("inf"))
            result = policy_loss(
                logprobs,
                before,
                batch.advantages,
                clip=self._clip,
                weights=batch.weights,
                sequences=batch.sequences if config.ratio == "sequence" else None,
                importance=importance if config.importance_cap else None,
                reference=self._reference.of(rollouts) if self._reference else None,
                kl_coef=config.kl_coef,
            )
            learner.engine.backward(result.loss)
            sums["loss"] += float(result.loss.detach())
            sums["tokens"] += len(before)
            sums["clip_share"] += float(result.clipped)
            sums["kl"] += float(result.kl)
            # Of what was sampled, minus the log-probability is an estimate of the entropy without a bias.
            sums["entropy"] -= float(before.sum())
            sums["mismatch"] += float((before - batch.sampler_logprobs).abs().sum())
            sums["mismatch_kl"] += float(kl_k3(batch.sampler_logprobs, before).sum())
            sums["importance"] += float(importance.sum())
            sums["importance_capped"] += float((importance == config.importance_cap).sum())
        return sums


def _rollouts(group: Group, config: GrpoConfig) -> dict[Rollout, Sample]:
    """The rollouts of a group that would be trained on."""
    trained = ((number, group.trajectories[number]) for number, _ in compare(group, config))
    return {(group.position, number): sample_of(t.segments, name=t.trajectory_id) for number, t in trained}


def _samples(groups: StepGroups, plan: UpdatePlan) -> list[Sample]:
    samples = []
    for planned in plan.samples:
        trajectory = groups.groups[planned.position].trajectories[planned.number]
        samples.append(
            sample_of(
                trajectory.segments,
                name=trajectory.trajectory_id,
                advantage=planned.advantage,
                weight=planned.weight,
            )
        )
    return samples
