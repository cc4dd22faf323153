"""Groups of rollouts: what the producer commits for each step, and what the learner and people read.

A step's groups lie under `trajectories/<step>/`, one record a group; the marker is written when the step is
complete and says which groups are trained on. A group that teaches nothing (all rewards equal) or that
failed is on record as well, but not chosen. Nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import pstdev
from typing import Any

from vigorl_lib.data.trajectory_records import record_to_trajectory, stored_trajectory
from vigorl_lib.domain.trajectory import Origin, Trajectory
from vigorl_lib.errors import CorruptObject
from vigorl_lib.reward.rules import distinct_points
from vigorl_lib.storage import commit
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import read_segments

MIN_GROUP = 2
"""Rollouts with a reward that a group needs to compare them."""
DISTINCT_RADIUS_PX = 10.0
"""Points nearer to each other than this (model frame) count as one in the metrics."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rollouts of one prompt. `position` is the prompt's place in the run's endless order of prompts."""

    position: int
    example_id: str
    trajectories: tuple[Trajectory, ...]

    @property
    def scored(self) -> list[Trajectory]:
        """Rollouts that ended by themselves and have a reward; only these are trained on."""
        return [t for t in self.trajectories if t.reward is not None and not t.stop.is_error]

    @property
    def failed(self) -> bool:
        return len(self.scored) < MIN_GROUP

    @property
    def zero_variance(self) -> bool:
        return not self.failed and len({trajectory.reward for trajectory in self.scored}) == 1


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a step's marker says: which groups it trains on, and where the next step goes on."""

    step: int
    chosen: list[int] = field(default_factory=list)
    """Positions, rising."""
    next_position: int = 0
    policy_version: int = 0
    """Version that the sampler was at or above."""
    seconds: float = 0.0
    """Wall time of the rollouts."""
    validation: dict[str, float] = field(default_factory=dict)
    """Results of the validation before this step, where one was due."""


@dataclass(frozen=True, slots=True)
class StepGroups:
    """A committed step: its plan and all of its groups by position."""

    plan: StepPlan
    groups: dict[int, Group]

    @property
    def chosen(self) -> list[Group]:
        return [self.groups[position] for position in self.plan.chosen]


def group_record(group: Group, images: ImageStore) -> dict[str, Any]:
    """The record of a group; images that came with their bytes are put into the store."""
    return {
        "position": group.position,
        "example_id": group.example_id,
        "trajectories": [stored_trajectory(trajectory, images) for trajectory in group.trajectories],
    }


def read_groups(layout: RunLayout, step: int) -> dict[int, Group]:
    """Groups on record for a step, committed or not, by position; of a repeated one the first counts."""
    groups: dict[int, Group] = {}
    prefix = layout.trajectories_of(step)
    for record in read_segments(layout.storage, prefix):
        position = int(record["position"])
        if position not in groups:
            trajectories = tuple(record_to_trajectory(item, where=prefix) for item in record["trajectories"])
            groups[position] = Group(position, str(record["example_id"]), trajectories)
    return groups


def commit_step(layout: RunLayout, plan: StepPlan) -> None:
    commit.commit(layout.storage, layout.trajectories_of(plan.step), asdict(plan))


def read_plan(layout: RunLayout, step: int) -> StepPlan | None:
    """The plan of a committed step, None before it is. Raises CorruptObject."""
    meta = commit.committed(layout.storage, layout.trajectories_of(step))
    if meta is None:
        return None
    try:
        return StepPlan(**meta)
    except TypeError:
        raise CorruptObject(
            f"{layout.storage.uri}: {layout.trajectories_of(step)} is committed, but not by a rollout producer",
            reason="PLAN_UNREADABLE",
        ) from None


def read_step(layout: RunLayout, step: int) -> StepGroups | None:
    """A committed step, None before it is. Raises CorruptObject, DataError."""
    plan = read_plan(layout, step)
    return None if plan is None else StepGroups(plan, read_groups(layout, step))


def rollout_metrics(step: StepGroups) -> dict[str, float]:
    """Means and shares over all rollouts of a step, those of groups that were left out included."""
    groups = list(step.groups.values())
    scored = [trajectory for group in groups for trajectory in group.scored]
    every = [trajectory for group in groups for trajectory in group.trajectories]
    lengths = [_sampled_tokens(trajectory) for trajectory in scored]
    metrics = {
        "groups": len(groups),
        "groups_chosen": len(step.plan.chosen),
        "zero_variance_share": _mean(group.zero_variance for group in groups),
        "failed_share": _mean(group.failed for group in groups),
        "reward": _mean(trajectory.reward or 0.0 for trajectory in scored),
        "reward_std_in_group": _mean(_reward_std(group) for group in groups if not group.failed),
        "zoom_rate": _mean(trajectory.zooms > 0 for trajectory in scored),
        "turns": _mean(len(trajectory.turns) for trajectory in scored),
        "distinct_points": _mean(map(_distinct_points, scored)),
        "invalid_turns": _mean(sum(turn.invalid is not None for turn in t.turns) for t in scored),
        "sampled_tokens": _mean(lengths),
        "sampled_tokens_max": max(lengths, default=0),
        "rollout_s": step.plan.seconds,
    }
    metrics |= _shares("outcome", [trajectory.outcome for trajectory in scored])
    metrics |= _shares("stop", [trajectory.stop.value for trajectory in every])
    for part in sorted({name for trajectory in scored for name in trajectory.reward_parts}):
        # A part that some examples cannot have (evidence needs a known region) is a mean over those that have it.
        metrics[f"reward_{part}"] = _mean(t.reward_parts[part] for t in scored if part in t.reward_parts)
    # The weights that a validation asked are those before the step, by their version.
    validated = {"validation_version": step.plan.policy_version, **step.plan.validation} if step.plan.validation else {}
    return metrics | _by_mode(scored) | _lag(step, scored) | validated


def _by_mode(scored: Sequence[Trajectory]) -> dict[str, float]:
    """Share, reward and right answers of each mode, where there are several."""
    modes = Counter(trajectory.mode for trajectory in scored)
    if len(modes) < 2:
        return {}
    metrics = _shares("mode", [trajectory.mode for trajectory in scored])
    for mode in sorted(modes):
        those = [trajectory for trajectory in scored if trajectory.mode == mode]
        metrics[f"reward_in_{mode}"] = _mean(trajectory.reward or 0.0 for trajectory in those)
        metrics[f"correct_in_{mode}"] = _mean(trajectory.outcome == "correct" for trajectory in those)
    return metrics


def _lag(step: StepGroups, scored: Sequence[Trajectory]) -> dict[str, float]:
    """How many versions the sampler was behind the weights that this step starts from, by sampled token."""
    lags: Counter[int] = Counter()
    mixed = 0
    for trajectory in scored:
        sampled = [segment for segment in trajectory.segments if segment.origin is Origin.POLICY]
        for segment in sampled:
            lags[step.plan.step - segment.policy_version] += len(segment.token_ids or ())
        mixed += len({segment.policy_version for segment in sampled}) > 1
    tokens = sum(lags.values())
    return {
        "policy_lag": sum(lag * count for lag, count in lags.items()) / tokens if tokens else 0.0,
        "policy_lag_max": max(lags, default=0),
        "mixed_version_share": mixed / len(scored) if scored else 0.0,
    }


def _reward_std(group: Group) -> float:
    return pstdev(trajectory.reward or 0.0 for trajectory in group.scored)


def _distinct_points(trajectory: Trajectory) -> int:
    cited = [point for record in trajectory.turns for point in record.turn.cited]
    return distinct_points(cited, DISTINCT_RADIUS_PX, None)


def _sampled_tokens(trajectory: Trajectory) -> int:
    return sum(len(segment.token_ids or ()) for segment in trajectory.segments if segment.origin is Origin.POLICY)


def _shares(prefix: str, values: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}_{value}": count / len(values) for value, count in sorted(Counter(values).items()) if value}


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
