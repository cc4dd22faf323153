"""The composed reward of the paper: answer, format, distinct points; and the reference's rules on our trajectories.

`answer` is 1 for a right answer. `format` is 1 for a trajectory whose every turn could be read and acted
on, that ends in an answer and cites a point where one is required. `distinct` counts the points
beyond the first that lie apart from each other, in a well formed trajectory. `evidence`, beyond the paper, is 1 where a
cited point lies on a known region that shows the answer. The total is
`answer_weight · answer + format_weight · (format + distinct_bonus · distinct) + evidence_weight · evidence`; parts
are reported unweighted. Pure functions of truth and trajectory; nothing here asks a model.
"""

from __future__ import annotations

from collections.abc import Sequence

from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Frame, FrameMap, Point
from vigorl_lib.domain.grammar import Malformed
from vigorl_lib.domain.trajectory import StopReason, Trajectory
from vigorl_lib.domain.wire import OBSERVATION_CLOSE, OBSERVATION_OPEN
from vigorl_lib.errors import RewardError
from vigorl_lib.reward.base import RewardOutcome, Rule, Score, Verdict
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.matching import Match, match_answer
from vigorl_lib.reward.reference import JUDGES, RULES

_JUDGE_OF = {AnswerKind.POINT: "point_in_bbox", AnswerKind.ACTION: "web_action"}
"""Judges of the reference's evaluation; all other kinds are compared as strings."""


def score_trajectory(
    example: Example, trajectory: Trajectory, config: RewardConfig, verdict: Verdict | None = None
) -> Score:
    """The composed reward. A free answer that the truth does not settle needs a judge's verdict.

    Raises RewardError (TRUTH_INCOMPLETE, JUDGE_MISSING).
    """
    frames = _frames(example, trajectory)
    outcome = _outcome(example, trajectory, frames, verdict)
    formed = well_formed(trajectory, require_point=config.require_point)
    parts = {"answer": float(outcome is RewardOutcome.CORRECT), "format": float(formed), "distinct": 0.0}
    paid = config.distinct_when == "always" or (config.distinct_when == "correct" and parts["answer"] > 0)
    if formed and paid:
        points = distinct_points(_cited(trajectory), config.distinct_radius_px, frames)
        parts["distinct"] = float(min(max(0, points - 1), config.distinct_cap))
    in_form = parts["format"] + config.distinct_bonus * parts["distinct"]
    total = config.answer_weight * parts["answer"] + config.format_weight * in_form
    if example.truth.evidence and frames is not None:
        parts["evidence"] = float(cites_evidence(example, trajectory, frames))
        total += config.evidence_weight * parts["evidence"]
    return Score(total, parts, outcome, verdict.judge if verdict is not None else "")


def undecided(example: Example, trajectory: Trajectory) -> bool:
    """Whether only a judge can tell if this answer is right."""
    answer = trajectory.answer
    if example.truth.kind is not AnswerKind.FREE or answer is None or trajectory.stop is not StopReason.ANSWERED:
        return False
    return match_answer(answer, example.truth) is Match.UNDECIDED


def cites_evidence(example: Example, trajectory: Trajectory, frames: FrameMap) -> bool:
    """Whether a cited point lies on a region that shows the answer."""
    points = [frames.point(point, Frame.ORIGINAL) for point in _cited(trajectory) if frames.inside(point)]
    return any(box.contains(point) for box in example.truth.evidence for point in points)


def reference_rule(name: str) -> Rule:
    """A rule of the reference on our trajectories: `total` is its `overall`, `answer` its accuracy."""
    rule = RULES[name]

    def score(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
        found = rule(response_of(trajectory), gold_of(example))
        if trajectory.answer is None:
            outcome = RewardOutcome.NO_ANSWER
        else:
            outcome = RewardOutcome.CORRECT if found.accuracy == 1.0 else RewardOutcome.WRONG
        return Score(found.overall, {"answer": found.accuracy, "format": found.format}, outcome)

    return score


def reference_evaluation(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
    """The verdict of the reference's evaluation, by the judge that it takes for this kind of answer.

    A box is mapped to the frame that the policy saw and cut to whole pixels, as its evaluation does when it resizes an
    image. It has no judge for a region that is no box: there the box around it counts.
    """
    answer = trajectory.answer
    if answer is None:
        return Score(0.0, {"answer": 0.0}, RewardOutcome.NO_ANSWER)
    gold, frames = gold_of(example), _frames(example, trajectory)
    if example.truth.kind is AnswerKind.POINT and example.truth.box is not None and frames is not None:
        seen = frames.box(example.truth.box, Frame.MODEL)
        gold = str(tuple(int(edge) for edge in (seen.x0, seen.y0, seen.x1, seen.y1)))
    right = JUDGES[_JUDGE_OF.get(example.truth.kind, "string_match")](answer, gold)
    return Score(float(right), {"answer": float(right)}, RewardOutcome.CORRECT if right else RewardOutcome.WRONG)


def response_of(trajectory: Trajectory) -> str:
    """The response as the reference reads it: all turns, with the tags of an observation where a crop was shown."""
    shown = OBSERVATION_OPEN + OBSERVATION_CLOSE
    return "\n".join(record.text if record.crop is None else f"{record.text}\n{shown}" for record in trajectory.turns)


def gold_of(example: Example) -> str:
    """The gold answer as the reference writes it; a box as whole numbers of the original frame."""
    box = example.truth.box
    if example.truth.kind is AnswerKind.POINT and box is not None:
        return str(tuple(round(edge) for edge in (box.x0, box.y0, box.x1, box.y1)))
    return example.truth.answer


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


def _outcome(
    example: Example, trajectory: Trajectory, frames: FrameMap | None, verdict: Verdict | None
) -> RewardOutcome:
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
        case Match.UNDECIDED:
            if verdict is None:
                raise RewardError(
                    f"{example.example_id}: a free answer needs a judge, and none is configured; set `judge` in the "
                    "reward service's settings, or services.judge where the reward is local",
                    reason="JUDGE_MISSING",
                    infrastructure=False,
                )
            return RewardOutcome.CORRECT if verdict.right else RewardOutcome.WRONG


def _frames(example: Example, trajectory: Trajectory) -> FrameMap | None:
    """Frames of the example's image, if the trajectory knows how its policy saw it."""
    if trajectory.model_size is None or not example.images:
        return None
    return FrameMap(example.images[0].size, trajectory.model_size)
