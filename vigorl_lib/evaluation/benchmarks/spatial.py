"""Where things are: SAT-2, BLINK and RoboSpatial.

The reference shows two-image questions as one image, joined side by side; so do `sat2` and `blink-joined`. `blink`
shows the images as they are, each for itself, and its points, if any, are of the first one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Frame, Point
from vigorl_lib.domain.image import Image
from vigorl_lib.evaluation.benchmarks.bundle import reader
from vigorl_lib.evaluation.benchmarks.files import Files, cell_image, cell_images, numbered_images
from vigorl_lib.evaluation.benchmarks.questions import choice_example, chosen, point_example, without_instruction
from vigorl_lib.evaluation.benchmarks.spec import Benchmark, Layout

SUB_TASKS = {
    "Art_Style": 117,
    "Counting": 120,
    "Forensic_Detection": 132,
    "Functional_Correspondence": 130,
    "IQ_Test": 150,
    "Jigsaw": 150,
    "Multi-view_Reasoning": 133,
    "Object_Localization": 122,
    "Relative_Depth": 124,
    "Relative_Reflectance": 134,
    "Semantic_Correspondence": 139,
    "Spatial_Relation": 143,
    "Visual_Correspondence": 172,
    "Visual_Similarity": 135,
}
"""BLINK's sub-tasks with the number of questions in `val`; the answers of `test` are hidden."""

MAX_SIDE = 1260
"""Longest side in pixels that the reference's evaluation of these sets allows."""
PROMPTS = ("single_turn", "vanilla", "direct")
BUNDLE = "gsarch/vigorl_datasets, spatial_reasoning.tar"
ROBOSPATIAL = "chanhee-luke/RoboSpatial-Home"


def read_sat(files: Files) -> Iterator[Example]:
    """`image_bytes` (one or two), `question`, `answers`, `correct_answer` (its text), `question_type`."""
    for number, (_, row) in enumerate(files.rows()):
        yield choice_example(
            row,
            example_id=f"{files.split}-{number}",
            question=row.text("question"),
            choices=_texts(row, "answers"),
            answer=row.text("correct_answer"),
            images=cell_images(row, "image_bytes"),
            tags={"question_type": row.text("question_type")},
        )


def read_blink(files: Files) -> Iterator[Example]:
    """`idx`, `sub_task`, `question`, `image_1` to `image_4`, `choices`, `answer` (such as `(B)`)."""
    for _, row in files.rows():
        choices = _texts(row, "choices")
        yield choice_example(
            row,
            example_id=row.text("idx"),
            question=row.text("question"),
            choices=choices,
            answer=chosen(row, row.text("answer"), choices),
            images=numbered_images(row, 4),
            tags={"sub_task": row.text("sub_task")},
        )


def read_robospatial(files: Files) -> Iterator[Example]:
    """`category`, `question`, `answer` (yes or no), `img`; the yes/no parts, in files of either form."""
    for number, row, image in _robospatial(files):
        yield choice_example(
            row,
            example_id=f"{row.text('category').lower()}-{number}",
            question=row.text("question"),
            choices=("yes", "no"),
            answer=row.text("answer").lower(),
            images=(image,),
            tags={"category": row.text("category").lower()},
        )


def read_robospatial_context(files: Files) -> Iterator[Example]:
    """The pointing part: `answer` lists the corners of a polygon in shares of the image."""
    for number, row, image in _robospatial(files):
        corners = [(x * image.size.width, y * image.size.height) for x, y in _corners(row)]
        xs, ys = zip(*corners, strict=True)
        example = point_example(
            row,
            example_id=f"context-{number}",
            question=without_instruction(row.text("question"), r"\s*Your answer should be formatted"),
            box=(min(xs), min(ys), max(xs), max(ys)),
            image=image,
            tags={"category": "context"},
        )
        region = tuple(Point(x, y, Frame.ORIGINAL) for x, y in corners)
        yield replace(example, truth=replace(example.truth, region=region))


def _robospatial(files: Files) -> Iterator[tuple[int, Fields, Image]]:
    """Rows of the wanted categories with their number in the files and their image, named by path or held in a cell."""
    wanted = ("context",) if files.split == "context" else ("configuration", "compatibility")
    for number, (path, row) in enumerate(files.rows()):
        if row.text("category").lower() not in wanted:
            continue
        named = isinstance(row.values.get("img"), str)
        image = files.image(row, row.text("img"), path) if named else cell_image(row, "img")
        yield number, row, image


def _corners(row: Fields) -> list[tuple[float, float]]:
    try:
        corners = [(float(x), float(y)) for x, y in ast.literal_eval(row.text("answer"))]
    except (ValueError, TypeError, SyntaxError):
        corners = []
    if len(corners) < 3 or not all(0 <= share <= 1 for corner in corners for share in corner):
        raise row.error(f"answer: expected at least three corners in shares of the image, found {row.text('answer')!r}")
    return corners


def _texts(row: Fields, name: str) -> list[str]:
    texts = row.items(name)
    if not all(isinstance(text, str) for text in texts):
        raise row.error(f"{name}: expected a list of texts")
    return texts


def _sub_task(example_id: str, answer: str) -> dict[str, str]:
    """The bundle's ids are `val_<sub task>_<number>`."""
    return {"sub_task": example_id.removeprefix("val_").rsplit("_", 1)[0]}


SAT2 = Benchmark(
    name="sat2",
    title="SAT-2",
    split="test",
    layouts=(
        Layout({"test": 4001}, "sat2_test.jsonl", reader(AnswerKind.STRING), BUNDLE),
        Layout({"val": 0}, "SAT_{split}.parquet", read_sat, "array/SAT"),
    ),
    family="spatial",
    prompts=PROMPTS,
    tags=("question_type",),
    max_side=MAX_SIDE,
    join=True,
)
BLINK = Benchmark(
    name="blink",
    title="BLINK, images as they are",
    split="val",
    layouts=(Layout({"val": sum(SUB_TASKS.values())}, "*/{split}-*.parquet", read_blink, "BLINK-Benchmark/BLINK"),),
    family="general_qa",
    prompts=PROMPTS,
    tags=("sub_task",),
    max_side=MAX_SIDE,
)
BLINK_JOINED = replace(
    BLINK,
    name="blink-joined",
    title="BLINK, images joined side by side as in the paper",
    layouts=(
        *BLINK.layouts,
        Layout(
            {"val": sum(SUB_TASKS.values())}, "blink_validation.jsonl", reader(AnswerKind.STRING, _sub_task), BUNDLE
        ),
    ),
    family="spatial",
    join=True,
)
ROBOSPATIAL_YES_NO = Benchmark(
    name="robospatial",
    title="RoboSpatial-Home, configuration and compatibility",
    split="test",
    layouts=(
        Layout({"test": 228}, "annotations.json", read_robospatial, ROBOSPATIAL),
        Layout({"test": 228}, "co[nm][fp]*-*.parquet", read_robospatial, ROBOSPATIAL),
    ),
    family="spatial",
    prompts=PROMPTS,
    tags=("category",),
    max_side=MAX_SIDE,
)
ROBOSPATIAL_CONTEXT = replace(
    ROBOSPATIAL_YES_NO,
    name="robospatial-context",
    title="RoboSpatial-Home, context (points of free space)",
    split="context",
    layouts=(
        Layout({"context": 122}, "annotations.json", read_robospatial_context, ROBOSPATIAL),
        Layout({"context": 122}, "context-*.parquet", read_robospatial_context, ROBOSPATIAL),
    ),
    family="spatial_pointing",
    metric="share of points in the polygon",
)
