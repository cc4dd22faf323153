"""What people marked on annotation pages: whether cited points are right, and how helpful; and how far they agree.

The page is `vigorl_lib.report.annotation_page`; each person saves one JSON file:

    {"version": 1, "page": "<digest of what was shown>", "annotator": "ana",
     "marks": [{"trajectory": "<id>", "point": "1", "right": "yes", "helpful": 4}]}

`point` is the number of a place in its trajectory. `right` is yes, no or unsure, `helpful` from 1 to 5; either may be
missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from vigorl_lib.data.fields import Fields
from vigorl_lib.errors import DataError
from vigorl_lib.evaluation.agreement import Marks, fleiss_kappa, krippendorff_alpha, pairwise_kappa
from vigorl_lib.evaluation.behaviours import Mean, mean
from vigorl_lib.evaluation.metrics import Proportion, clustered

VERSION = 1
RIGHT = ("yes", "no", "unsure")
HELPFUL = (1, 5)
"""From not at all to decisive."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One person's view of one cited place; `right` is None for unsure and where nothing was said."""

    trajectory_id: str
    point: str
    right: bool | None
    helpful: int | None


@dataclass(frozen=True, slots=True)
class Annotation:
    annotator: str
    page: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What all annotators together say, and how far they agree; a statistic that is not defined is NaN.

    `fleiss` is None where not every place was judged by the same number of people.
    """

    annotators: tuple[str, ...]
    places: int
    right: Proportion
    """Of the judgements; those of one trajectory are one cluster."""
    helpful: Mean
    helpful_if_right: Mean
    helpful_if_wrong: Mean
    cohen: dict[tuple[str, str], tuple[float, int]]
    fleiss: float | None
    alpha_right: float
    alpha_helpful: float


def read_annotation(text: str, where: str) -> Annotation:
    """Raises DataError (RECORD_INVALID) that says where and what."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: no JSON: {error}", reason="RECORD_INVALID") from None
    fields = Fields(values, where)
    if fields.integer("version") != VERSION:
        raise fields.error(f"version: expected {VERSION}, found {fields.integer('version')}")
    annotator = fields.text("annotator").strip()
    if not annotator:
        raise fields.error("annotator: expected a name, found none")
    return Annotation(annotator, fields.text("page"), tuple(map(_mark, fields.objects("marks"))))


def agree(annotations: Sequence[Annotation]) -> Agreement:
    """Raises DataError (ANNOTATIONS_DIFFER) where they are not of the same page, or a name stands on two of them."""
    _check(annotations)
    said = [(one.annotator, mark) for one in annotations for mark in one.marks]
    judged = [(mark.right, mark) for _, mark in said if mark.right is not None]
    right, helpful = _table(annotations, "right"), _table(annotations, "helpful")
    return Agreement(
        annotators=tuple(one.annotator for one in annotations),
        places=len({(mark.trajectory_id, mark.point) for _, mark in said}),
        right=clustered([verdict for verdict, _ in judged], [mark.trajectory_id for _, mark in judged]),
        helpful=_helpfulness([mark for _, mark in said]),
        helpful_if_right=_helpfulness([mark for verdict, mark in judged if verdict]),
        helpful_if_wrong=_helpfulness([mark for verdict, mark in judged if not verdict]),
        cohen=pairwise_kappa(right),
        fleiss=fleiss_kappa(right) if len({len(row) for row in right}) == 1 else None,
        alpha_right=krippendorff_alpha(right),
        alpha_helpful=krippendorff_alpha(helpful, ordinal=True),
    )


def _check(annotations: Sequence[Annotation]) -> None:
    names = [one.annotator for one in annotations]
    if len(set(names)) < len(names):
        raise DataError(
            f"expected one file of each annotator, found {', '.join(sorted(names))}", reason="ANNOTATIONS_DIFFER"
        )
    if len({one.page for one in annotations}) > 1:
        raise DataError(
            "expected annotations of one page, found "
            + ", ".join(f"{one.annotator}: {one.page[:12]}" for one in annotations),
            reason="ANNOTATIONS_DIFFER",
        )


def _table(annotations: Sequence[Annotation], name: str) -> Marks:
    """A row for each place, in it what each annotator said."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for one in annotations:
        for mark in one.marks:
            value = getattr(mark, name)
            if value is not None:
                rows.setdefault((mark.trajectory_id, mark.point), {})[one.annotator] = float(value)
    return list(rows.values())


def _helpfulness(marks: Sequence[Mark]) -> Mean:
    said = [(float(mark.helpful), mark.trajectory_id) for mark in marks if mark.helpful is not None]
    return mean([helpful for helpful, _ in said], [trajectory for _, trajectory in said])


def _mark(fields: Fields) -> Mark:
    right = fields.text("right", "unsure")
    if right not in RIGHT:
        raise fields.error(f"right: expected one of {', '.join(RIGHT)}, found {right!r}")
    low, high = HELPFUL
    helpful = fields.integer("helpful", 0)
    if "helpful" in fields and not low <= helpful <= high:
        raise fields.error(f"helpful: expected {low} to {high}, found {helpful}")
    return Mark(
        fields.text("trajectory"), fields.text("point"), None if right == "unsure" else right == "yes", helpful or None
    )
