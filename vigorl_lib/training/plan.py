"""What is trained on in one step of GRPO: which rollouts, with which advantages, in which micro-batches.

Rank 0 makes the plan of committed groups and the others read it (`vigorl_lib.training.ranks`); no rank decides
anything by itself. The producer asks `compare` as well, to replace groups that teach nothing. Without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vigorl_lib.domain.trajectory import Origin, StopReason, Trajectory
from vigorl_lib.training.advantages import group_advantages, token_weights
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import MIN_GROUP, Group, StepGroups
from vigorl_lib.training.order import Prompt

Assign = Callable[[Sequence[int], Sequence[Prompt]], list[list[list[int]]]]
"""Lengths and prompts of samples → indexes by rank and micro-batch, as many micro-batches on every rank."""

Rollout = tuple[int, int]
"""A rollout of a step: the position of its group, and its number there."""

_TRUNCATED = (StopReason.MAX_TOKENS, StopReason.CONTEXT_OVERFLOW)


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One rollout: `number` is its place in the group at `position`; `weight` is that of each of its tokens."""

    position: int
    number: int
    advantage: float
    weight: float

    @property
    def rollout(self) -> Rollout:
        return self.position, self.number


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """One optimiser step. `micro_batches` are indexes into `samples`, by rank and micro-batch."""

    samples: list[PlannedSample]
    micro_batches: list[list[list[int]]]

    @property
    def positions(self) -> list[int]:
        """Of the groups, rising."""
        return sorted({sample.position for sample in self.samples})


def is_truncated(trajectory: Trajectory) -> bool:
    """Whether a token budget cut the rollout, rather than its own end."""
    return trajectory.stop in _TRUNCATED


def overlong_share(trajectory: Trajectory, max_tokens: int, stretch: int) -> float:
    """How far a rollout's tokens behind the prompt reach into the last `stretch` of `max_tokens`: 0 to 1."""
    behind = sum(len(s.token_ids or ()) for s in trajectory.segments if s.origin is not Origin.PROMPT)
    return min(1.0, max(0.0, (behind - (max_tokens - stretch)) / stretch))


def compare(group: Group, config: GrpoConfig) -> list[tuple[int, float]]:
    """Place and advantage of each rollout of a group to train on; none where the group cannot be compared.

    Rollouts without a reward are left out, truncated ones as `config.truncated` says, and those in which the policy
    said nothing are compared and not trained.
    """
    numbers = [number for number, t in enumerate(group.trajectories) if t.reward is not None and not t.stop.is_error]
    if config.truncated == "drop":
        numbers = [number for number in numbers if not is_truncated(group.trajectories[number])]
    if len(numbers) < MIN_GROUP:
        return []
    rewards = [group.trajectories[number].reward or 0.0 for number in numbers]
    if config.drop_zero_variance and len(set(rewards)) == 1:
        return []
    compared = zip(numbers, group_advantages(rewards, config.advantage), strict=True)
    return [(number, advantage) for number, advantage in compared if _is_trained(group.trajectories[number], config)]


def plan_updates(step: StepGroups, config: GrpoConfig, *, max_tokens: int, assign: Assign) -> list[UpdatePlan]:
    """The optimiser steps on a committed step's chosen groups, whole groups each; none where nothing was chosen.

    `max_tokens` is the task's, for `loss_average: constant`.
    """
    chosen = [(group, compared) for group in step.chosen if (compared := compare(group, config))]
    updates = min(config.updates, len(chosen))
    return [_plan(chosen[first::updates], config, max_tokens, assign) for first in range(updates)]


def _plan(
    groups: Sequence[tuple[Group, list[tuple[int, float]]]], config: GrpoConfig, max_tokens: int, assign: Assign
) -> UpdatePlan:
    picked = [(group, number, advantage) for group, compared in groups for number, advantage in compared]
    sizes = [_sizes(group.trajectories[number]) for group, number, _ in picked]
    prompts = [Prompt(group.position, size.prompt) for (group, _, _), size in zip(picked, sizes, strict=True)]
    weights = token_weights([size.trained for size in sizes], config.loss_average, max_tokens=max_tokens)
    samples = [
        PlannedSample(group.position, number, advantage, weight)
        for (group, number, advantage), weight in zip(picked, weights, strict=True)
    ]
    return UpdatePlan(samples, assign([size.tokens for size in sizes], prompts))


def _is_trained(trajectory: Trajectory, config: GrpoConfig) -> bool:
    if config.truncated == "mask" and is_truncated(trajectory):
        return False
    return any(segment.trained and segment.token_ids for segment in trajectory.segments)


class _Sizes(NamedTuple):
    """Tokens up to the last trained one, trained ones, and those before the first trained one."""

    tokens: int
    trained: int
    prompt: int


def _sizes(trajectory: Trajectory) -> _Sizes:
    mask = trajectory.trained_mask
    return _Sizes(len(mask) - mask[::-1].index(True), sum(mask), mask.index(True))
