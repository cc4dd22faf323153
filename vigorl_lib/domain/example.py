"""One question about one or more images, and what is true.

`Example` is what every stage reads from a data set, synthetic or the user's own; the record format
on disk is `vigorl_lib.data.records`. Ground truth is stored in the original frame and is never part
of a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from vigorl_lib.domain.geometry import Box, Point
from vigorl_lib.domain.image import Image


class AnswerKind(StrEnum):
    """How an answer is matched."""

    STRING = "string"
    CHOICE = "choice"
    POINT = "point"
    """The answer is a point that must lie in `GroundTruth.box`, and in `region` where there is one."""
    ACTION = "action"
    """A web action such as `click [12]`."""
    FREE = "free"
    """Free text that a judge compares with `GroundTruth.answer` where it does not say the same word for word."""


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """`evidence` are the regions that show the answer, `distractors` look-alikes that do not; original frame.

    `region` are the corners of a polygon within `box` that a point must lie in; `accepted` are further spellings of
    `answer` that are right, for strings and free text.
    """

    answer: str
    kind: AnswerKind = AnswerKind.STRING
    choices: tuple[str, ...] = ()
    box: Box | None = None
    evidence: tuple[Box, ...] = ()
    distractors: tuple[Box, ...] = ()
    region: tuple[Point, ...] = ()
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """`tags` are categories for breakdowns (for example `size: small`), a small closed set."""

    example_id: str
    question: str
    images: tuple[Image, ...]
    truth: GroundTruth
    task: str = ""
    tags: dict[str, str] = field(default_factory=dict)
