"""The composed reward of the paper: answer, format, distinct points.

`answer` is 1 for a right answer. `format` is 1 for a trajectory whose every turn could be read and acted
on, that ends in an answer and cites a point where one is required. `distinct` counts the points
beyond the first that lie apart from each other, in a well formed trajectory. The total is
`answer_weight · answer + format_weight · (format + distinct_bonus · distinct)`; parts are reported
unweighted. Pure functions of truth and trajectory; nothing here asks a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import FrameMap, Point
from vigorl_lib.domain.grammar import Malformed
from vigorl_lib.domain.trajectory import StopReason, Trajectory
from vigorl_lib.errors import VigorlError
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.matching import Match, match_answer


class LocalReward:
    """Reward protocol, in this process."""

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        scores: list[Score | Exception] = []
        for example, trajectory in items:
            try:
                scores.append(score_trajectory(example, trajectory, config))
            except VigorlError as error:
                scores.append(error)
        return scores

    async def close(self) -> None:
        """Nothing is held."""


def score_trajectory(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
    """Score one trajectory. Raises RewardError where the truth is incomplete."""
    frames = _frames(example, trajectory)
    outcome = _outcome(example, trajectory, frames)
    formed = well_formed(trajectory, require_point=config.require_point)
    parts = {"answer": float(outcome is RewardOutcome.CORRECT), "format": float(formed), "distinct": 0.0}
    paid = config.distinct_when == "always" or (config.distinct_when == "correct" and parts["answer"] > 0)
    if formed and paid:
        points = distinct_points(_cited(trajectory), config.distinct_radius_px, frames)
        parts["distinct"] = float(min(max(0, points - 1), config.distinct_cap))
    in_form = parts["format"] + config.distinct_bonus * parts["distinct"]
    total = config.answer_weight * parts["answer"] + config.format_weight * in_form
    return Score(total, parts, outcome)


def well_formed(trajectory: Trajectory, *, require_point: bool) -> bool:
    """Every turn could be read, as strictly as its task asked for, and acted on, and the last one answers."""
    if trajectory.stop is not StopReason.ANSWERED:
        return False
    if any(record.invalid or isinstance(record.turn.action, Malformed) for record in trajectory.turns):
        return False
    return bool(_cited(trajectory)) or not require_point


def distinct_points(points: Sequence[Point], radius_px: float, frames: FrameMap | None) -> int:
    """Points kept greedily in order, each at least `radius_px` from all kept; those off the image never count."""
    kept: list[Point] = []
    for point in points:
        if frames is not None and not frames.inside(point):
            continue
        if all(point.distance(other) >= radius_px for other in kept):
            kept.append(point)
    return len(kept)


def _cited(trajectory: Trajectory) -> tuple[Point, ...]:
    return tuple(point for record in trajectory.turns for point in record.turn.cited)


def _outcome(example: Example, trajectory: Trajectory, frames: FrameMap | None) -> RewardOutcome:
    answer = trajectory.answer
    if answer is None or trajectory.stop is not StopReason.ANSWERED:
        return RewardOutcome.NO_ANSWER
    match match_answer(answer, example.truth, frames if example.truth.kind is AnswerKind.POINT else None):
        case Match.RIGHT:
            return RewardOutcome.CORRECT
        case Match.WRONG:
            return RewardOutcome.WRONG
        case Match.UNREADABLE:
            return RewardOutcome.MALFORMED


def _frames(example: Example, trajectory: Trajectory) -> FrameMap | None:
    """Frames of the example's image, if the trajectory knows how its policy saw it."""
    if trajectory.model_size is None or not example.images:
        return None
    return FrameMap(example.images[0].size, trajectory.model_size)
