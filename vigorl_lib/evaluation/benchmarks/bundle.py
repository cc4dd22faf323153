"""Questions in the two record formats of the reference's released bundles; which benchmark, the caller says.

Conversation lines hold `id`, `image` and `conversations` (question, then gold answer); lines for reinforcement learning
hold `problem`, `answer` and `images`. Boxes are whole pixels of the stored image, `(x1, y1, x2, y2)`. Options stand in
the text of the question: where they are lettered lines, the answer is a choice of them, else a string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.domain.wire import IMAGE_PLACEHOLDER
from vigorl_lib.evaluation.benchmarks.files import Files
from vigorl_lib.evaluation.benchmarks.questions import clipped, split_options

Tags = Callable[[str, str], dict[str, str]]
"""Tags from an id and a gold answer: the formats have no field for a category."""

_BOX = re.compile(r"\s*[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]\s*")


def no_tags(example_id: str, answer: str) -> dict[str, str]:
    return {}


def reader(kind: AnswerKind, tags: Tags = no_tags) -> Callable[[Files], Iterator[Example]]:
    """Reads lines whose answers are of one kind: strings, points (the gold is a box) or web actions."""
    return partial(_read, kind=kind, tags=tags)


def _read(files: Files, *, kind: AnswerKind, tags: Tags) -> Iterator[Example]:
    for number, (path, row) in enumerate(files.rows()):
        question, answer, names = _parts(row)
        images = tuple(files.image(row, name, path, ("", "images")) for name in names)
        example_id = str(row.values.get("id", f"{files.split}-{number}"))
        truth = _truth(row, kind, question, answer, images[0])
        yield Example(example_id, question, images, truth, tags=tags(example_id, answer))


def _parts(row: Fields) -> tuple[str, str, list[str]]:
    """Question without its image placeholders, gold answer, and image paths."""
    if "conversations" in row:
        said = [turn.text("value") for turn in row.objects("conversations")]
        if len(said) < 2:
            raise row.error(f"conversations: expected a question and an answer, found {len(said)} entries")
        question, answer, names = said[0], said[1], [row.text("image")]
    else:
        question, answer, names = row.text("problem"), row.text("answer"), row.items("images")
    if not names or not all(isinstance(name, str) for name in names):
        raise row.error("images: expected at least one path")
    return question.replace(IMAGE_PLACEHOLDER, "").strip(), answer.strip(), names


def _truth(row: Fields, kind: AnswerKind, question: str, answer: str, image: Image) -> GroundTruth:
    if kind is AnswerKind.POINT:
        corners = _BOX.fullmatch(answer)
        if corners is None:
            raise row.error(f"answer: expected a box (x1, y1, x2, y2), found {answer!r}")
        x0, y0, x1, y1 = (int(corner) for corner in corners.groups())
        return GroundTruth("", kind, box=clipped(row, (x0, y0, x1, y1), image.size))
    if kind is AnswerKind.ACTION and parse_action(answer) is None:
        raise row.error(f"answer: expected a web action, found {answer!r}")
    if kind is AnswerKind.STRING and answer in (choices := split_options(question)[1]):
        return GroundTruth(answer, AnswerKind.CHOICE, choices)
    return GroundTruth(answer, kind)
