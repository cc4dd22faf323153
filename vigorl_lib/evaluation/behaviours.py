"""What a policy does on its way to an answer: regions explored, grounded subgoals, verification, backtracking.

Counted here by rules, the same for every reader and without a model. Places are counted exactly. Subgoals, verification
and backtracking are read off turns of phrase, so these counts say how a policy talks; what its sentences mean is for a
judge to say (`vigorl_lib.evaluation.behaviour_judge`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Box, Frame, FrameMap, Point, in_polygon
from vigorl_lib.domain.grammar import Zoom, find_points
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.evaluation.metrics import bootstrap_mean

REGION_RADIUS_PX = 10.0
"""Points nearer than this to each other are one region (model frame), as in the reward."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_BACKTRACKS = re.compile(
    r"\bwait\b|\bon second thought\b|\b(?:seems|looks|is|was) (?:off|wrong|not right|incorrect|a mistake)\b"
    r"|\btry (?:something|somewhere) else\b|\bI (?:was|am) (?:wrong|mistaken)\b|\b(?:go|going|went|step) back\b"
    r"|\breconsider|\bnot the (?:right|correct) \w+",
    re.IGNORECASE,
)
_VERIFIES = re.compile(
    r"\bverif(?:y|ies|ied|ying|ication)\b|\bdouble[- ]?check|\bconfirm|\bmake sure\b|\bto be (?:sure|certain)\b"
    r"|\bre-?(?:check|examin)|\b(?:check|look)(?:ing)? (?:\w+ )?again\b",
    re.IGNORECASE,
)
_PLANS = re.compile(
    r"\bI(?:'ll| will| need to| have to| should| must| want to|'m going to| am going to)\b"
    r"|\b(?:let me|let us|let's)\b|\b(?:first|next|then)\b,? (?:I|we)\b|\bthe next step\b",
    re.IGNORECASE,
)


class Behaviour(StrEnum):
    """What both the rules and a judge count."""

    REGIONS = "regions"
    """Places of the image that are looked at."""
    GROUNDED_SUBGOALS = "grounded_subgoals"
    """Steps that say what is to be found and point at where."""
    VERIFICATION = "verification"
    """Checks of what was found before."""
    BACKTRACKING = "backtracking"
    """Times a line of thought is given up for another."""


@dataclass(frozen=True, slots=True)
class Behaviours:
    """Counts of one trajectory; `points_on_evidence` is None where nobody knows where the answer shows."""

    regions: int
    grounded_subgoals: int
    verification: int
    backtracking: int
    revisits: int
    """Times that it comes back to a region after it looked at another."""
    zooms: int
    points: int
    """Points cited, repeats included."""
    points_on_evidence: int | None


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over n values with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def behaviours_of(trajectory: Trajectory, example: Example | None = None) -> Behaviours:
    """Count by rules. `example` tells the image's size and where the answer shows.

    Example: the turns "I will look at the sign at (10, 10)." with a zoom there, and "Wait, this seems off. Let's try
    something else. The other is at (90, 90)." are two regions, one grounded subgoal and one backtracking.
    """
    frames = None
    if example is not None and example.images and trajectory.model_size is not None:
        frames = FrameMap(example.images[0].size, trajectory.model_size)
    points = [point for record in trajectory.turns for point in record.turn.cited]
    inside = [point for point in points if frames is None or frames.inside(point)]
    path = _regions(inside)
    labels = [label for record in trajectory.turns for label in _labels(record)]
    episodes = [label for number, label in enumerate(labels) if number == 0 or label is not labels[number - 1]]
    return Behaviours(
        regions=len(set(path)),
        grounded_subgoals=labels.count(Behaviour.GROUNDED_SUBGOALS),
        verification=labels.count(Behaviour.VERIFICATION),
        # "Wait, this seems off. Let's try something else." is one change of mind in two sentences.
        backtracking=episodes.count(Behaviour.BACKTRACKING),
        revisits=len(path) - len(set(path)),
        zooms=trajectory.zooms,
        points=len(points),
        points_on_evidence=_on_evidence(inside, example, frames),
    )


def summarize_behaviours(counted: Mapping[str, Behaviours]) -> dict[str, Mean]:
    """Means a trajectory, and `point_accuracy`: of those that point, the share of points on a region of the answer.

    `counted` is by trajectory id; those of one question are drawn together for the interval.
    """
    figures = {
        str(name): _mean_of({trajectory: float(getattr(one, name)) for trajectory, one in counted.items()})
        for name in (*Behaviour, "revisits", "zooms", "points")
    }
    accurate = {
        trajectory: one.points_on_evidence / one.points
        for trajectory, one in counted.items()
        if one.points and one.points_on_evidence is not None
    }
    return figures | {"point_accuracy": _mean_of(accurate)}


def summarize_counts(counted: Mapping[str, Mapping[Behaviour, int]]) -> dict[str, Mean]:
    """Means a trajectory of what a judge counted, by trajectory id."""
    return {
        name.value: _mean_of({trajectory: float(one[name]) for trajectory, one in counted.items()})
        for name in Behaviour
    }


def mean(values: Sequence[float], clusters: Sequence[str]) -> Mean:
    """0 of nothing, with an interval that says nothing. Values of one cluster may depend on each other."""
    if not values:
        return Mean(0.0, 0.0, 0.0, 0)
    low, high = bootstrap_mean(values, clusters)
    return Mean(fmean(values), low, high, len(values))


def _mean_of(values: Mapping[str, float]) -> Mean:
    # An evaluation's trajectory ids end in the number of the sample.
    return mean(list(values.values()), [trajectory.rpartition("/")[0] or trajectory for trajectory in values])


def reasoning_of(trajectory: Trajectory) -> str:
    """The thoughts in order, numbered, with what each turn did; the answer is left out."""
    lines = []
    for number, record in enumerate(trajectory.turns, 1):
        lines.append(f"{number}. {record.turn.thought.strip()}")
        if isinstance(record.turn.action, Zoom):
            lines.append(f"   (looks closer at ({record.turn.action.point.x:g}, {record.turn.action.point.y:g}))")
    return "\n".join(lines)


def evidence_of(example: Example) -> tuple[Box, ...]:
    """Regions that show the answer: those that the truth names, else the box that the answer must lie in."""
    truth = example.truth
    return truth.evidence or ((truth.box,) if truth.box is not None else ())


def _labels(record: TurnRecord) -> Iterator[Behaviour]:
    """What the sentences of a turn do, each one thing at most; a zoom is a grounded subgoal in itself."""
    plans = 0
    for sentence in _SENTENCE.split(record.turn.thought):
        if _BACKTRACKS.search(sentence):
            yield Behaviour.BACKTRACKING
        elif _VERIFIES.search(sentence):
            yield Behaviour.VERIFICATION
        elif _PLANS.search(sentence) and find_points(sentence):
            plans += 1
            yield Behaviour.GROUNDED_SUBGOALS
    if isinstance(record.turn.action, Zoom) and plans == 0:
        yield Behaviour.GROUNDED_SUBGOALS


def _regions(points: Sequence[Point]) -> list[int]:
    """Number of the region of each point, without repeats in a row; regions begin at the first point in them."""
    kept: list[Point] = []
    path: list[int] = []
    for point in points:
        known = next((k for k, other in enumerate(kept) if point.distance(other) < REGION_RADIUS_PX), None)
        if known is None:
            known = len(kept)
            kept.append(point)
        if not path or path[-1] != known:
            path.append(known)
    return path


def _on_evidence(points: Sequence[Point], example: Example | None, frames: FrameMap | None) -> int | None:
    if example is None or frames is None or not evidence_of(example):
        return None
    originals = [frames.point(point, Frame.ORIGINAL) for point in points]
    right = [point for point in originals if any(box.contains(point) for box in evidence_of(example))]
    # Where the truth names no evidence, the answer's own region decides, and its box is only what lies around it.
    region = () if example.truth.evidence else example.truth.region
    return sum(in_polygon(point, region) for point in right) if region else len(right)
