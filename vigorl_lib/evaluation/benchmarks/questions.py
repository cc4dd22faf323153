"""Examples out of a benchmark's fields: multiple choice, points in boxes, and the text that asks for them.

Questions are written in one way for all benchmarks, because the files carry their authors' own instructions for the
form of an answer ("answer with the letter"), which contradict the prompt; those are taken away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Frame, Size
from vigorl_lib.domain.image import Image

_OPTION = re.compile(r"^\s*\(?([A-Z])[).:]\s*(.+?)\s*$")


def choice_example(
    row: Fields,
    *,
    example_id: str,
    question: str,
    choices: Sequence[str],
    answer: str,
    images: Sequence[Image],
    tags: Mapping[str, str],
    evidence: tuple[Box, ...] = (),
) -> Example:
    """A question whose choices stand below it, one a line with its letter. Raises DataError (RECORD_INVALID)."""
    choices = tuple(choice.strip() for choice in choices)
    answer = answer.strip()
    if len(choices) > len(ascii_uppercase):
        raise row.error(f"choices: expected at most {len(ascii_uppercase)}, found {len(choices)}")
    if answer not in choices:
        raise row.error(f"answer: expected one of the choices {list(choices)}, found {answer!r}")
    lines = [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    truth = GroundTruth(answer, AnswerKind.CHOICE, choices, evidence=evidence)
    return Example(example_id, "\n".join([question.strip(), *lines]), tuple(images), truth, tags=dict(tags))


def point_example(
    row: Fields, *, example_id: str, question: str, box: Sequence[float], image: Image, tags: Mapping[str, str]
) -> Example:
    """A question for a point in `box`, corners x0, y0, x1, y1 in pixels of `image`."""
    truth = GroundTruth("", AnswerKind.POINT, box=clipped(row, box, image.size))
    return Example(example_id, question.strip(), (image,), truth, tags=dict(tags))


def chosen(row: Fields, answer: str, choices: Sequence[str]) -> str:
    """The choice that a letter such as `(B)` names, or that is spelled out. Raises DataError (RECORD_INVALID)."""
    letter = answer.strip("() .")
    index = ascii_uppercase.find(letter) if len(letter) == 1 else -1
    if 0 <= index < len(choices):
        return choices[index]
    spelled = [choice for choice in choices if choice.strip().lower() == answer.strip().lower()]
    if len(spelled) != 1:
        raise row.error(f"answer: expected the letter or the text of one of {list(choices)}, found {answer!r}")
    return spelled[0]


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and the choices that stand below it as lines `(A) …` or `A. …`, lettered in order; else no choices."""
    lines = text.strip().splitlines()
    found = [(number, match) for number, line in enumerate(lines) if (match := _OPTION.match(line))]
    letters = "".join(match[1] for _, match in found)
    if len(found) < 2 or letters != ascii_uppercase[: len(found)]:
        return text.strip(), ()
    numbers = {number for number, _ in found}
    rest = "\n".join(line for number, line in enumerate(lines) if number not in numbers).strip()
    return rest, tuple(match[2] for _, match in found)


def without_instruction(text: str, pattern: str) -> str:
    """The text up to a closing instruction about the form of the answer."""
    return re.split(pattern, text, maxsplit=1, flags=re.IGNORECASE | re.DOTALL)[0].strip()


def clipped(row: Fields, corners: Sequence[float], size: Size) -> Box:
    """The part of a box that lies on the image. Raises DataError (RECORD_INVALID) where nothing does."""
    x0, y0, x1, y1 = corners
    box = Box(max(0, x0), max(0, y0), min(size.width, x1), min(size.height, y1), Frame.ORIGINAL)
    if box.x0 >= box.x1 or box.y0 >= box.y1:
        raise row.error(
            f"bbox: expected a box on the image ({size.width}x{size.height}), found corners {list(corners)}; "
            "is it written in another order or frame?"
        )
    return box


def from_xywh(box: Sequence[float]) -> tuple[float, float, float, float]:
    """Corners of a box given as left, top, width, height."""
    x, y, width, height = box
    return x, y, x + width, y + height


def from_shares(row: Fields, box: Sequence[float], size: Size) -> tuple[float, float, float, float]:
    """Corners in pixels of a box given as left, top, right, bottom in shares of the image."""
    if max(box) > 1.0 + 1e-6:
        raise row.error(f"bbox: expected shares of the image from 0 to 1, found {list(box)}")
    return box[0] * size.width, box[1] * size.height, box[2] * size.width, box[3] * size.height
