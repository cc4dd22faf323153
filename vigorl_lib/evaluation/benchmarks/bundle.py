"""Questions in the two record formats of the reference's released bundles; which benchmark, the caller says.

The formats are those of `vigorl_lib.data.formats`. A benchmark knows more, and asks for more, than an import does: all
answers are of one kind, and a row with another is refused; no row is skipped; images lie beside the rows or in
`images`; and where options stand in the question as lettered lines, the answer is a choice of them, so that it may be
given by its letter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from vigorl_lib.data.drafts import Draft
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.formats import read_conversation, read_rl
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.evaluation.benchmarks.files import Files
from vigorl_lib.evaluation.benchmarks.questions import split_options

Tags = Callable[[str, str], dict[str, str]]
"""Tags from an id and a gold answer, "" for a point: the formats have no field for a category."""

FOLDERS = ("", "images")


def no_tags(example_id: str, answer: str) -> dict[str, str]:
    return {}


def reader(kind: AnswerKind, tags: Tags = no_tags) -> Callable[[Files], Iterator[Example]]:
    """Reads lines whose answers are of one kind: strings, points (the gold is a box) or web actions."""
    return partial(_read, kind=kind, tags=tags)


def _read(files: Files, *, kind: AnswerKind, tags: Tags) -> Iterator[Example]:
    for number, (path, row) in enumerate(files.rows()):
        draft = _draft(row, kind)
        images = tuple(files.image(row, picture, path, FOLDERS) for picture in draft.pictures)
        example_id = str(row.values.get("id", f"{files.split}-{number}"))
        record = draft.record | {"id": example_id, "tags": tags(example_id, draft.record.get("answer", ""))}
        example = replace(draft, record=record | _choices(record)).example(images)
        yield replace(example, images=images)


def _draft(row: Fields, kind: AnswerKind) -> Draft:
    draft = read_conversation(row, kind=kind) if "conversations" in row else read_rl(row, kind=kind)
    if draft is None:
        raise row.error("the field 'image' is missing; expected text")
    answer = draft.record.get("answer")
    if kind is AnswerKind.POINT and "box" not in draft.record:
        raise row.error(f"answer: expected a box (x1, y1, x2, y2), found {answer!r}")
    if kind is AnswerKind.ACTION and parse_action(str(answer)) is None:
        raise row.error(f"answer: expected a web action, found {answer!r}")
    return draft


def _choices(record: dict[str, Any]) -> dict[str, Any]:
    """What makes a string a choice of the options in its question."""
    choices = split_options(record["question"])[1]
    if record["kind"] != AnswerKind.STRING or record["answer"] not in choices:
        return {}
    return {"kind": AnswerKind.CHOICE.value, "choices": list(choices)}
