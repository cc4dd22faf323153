"""V*Bench: questions about small details of large photographs, with the boxes of the things that they ask about.

`test_questions.jsonl` has the questions with shuffled options; the JSON beside each image has the boxes
`[left, top, width, height]` in pixels, which become evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

from vigorl_lib.data.fields import parse_line
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Box
from vigorl_lib.domain.image import Image
from vigorl_lib.evaluation.benchmarks.bundle import reader
from vigorl_lib.evaluation.benchmarks.files import Files, checked_image
from vigorl_lib.evaluation.benchmarks.questions import (
    choice_example,
    chosen,
    clipped,
    from_xywh,
    split_options,
    without_instruction,
)
from vigorl_lib.evaluation.benchmarks.spec import MULTI_TURN, Benchmark, Layout

CATEGORIES = {"direct_attributes": "attribute", "relative_position": "relation"}
"""The files' names of the categories and the paper's."""


def read_vstar(files: Files) -> Iterator[Example]:
    """`question_id`, `category`, `image`, `text` (question and options), `label` (a letter)."""
    for path, row in files.rows():
        category = row.text("category")
        if category not in CATEGORIES:
            raise row.error(f"category: expected one of {', '.join(CATEGORIES)}, found {category!r}")
        place = files.image_path(row, row.text("image"), path)
        image = checked_image(row, place.read_bytes())
        text = without_instruction(row.text("text"), r"\s*Answer with the option's letter")
        question, choices = split_options(text)
        if not choices:
            raise row.error(f"text: expected lines (A) …, (B) … below the question, found {text!r}")
        yield choice_example(
            row,
            # Question numbers start anew in each category.
            example_id=f"{CATEGORIES[category]}-{row.values.get('question_id')}",
            question=question,
            choices=choices,
            answer=chosen(row, row.text("label"), choices),
            images=(image,),
            tags={"category": CATEGORIES[category]},
            evidence=_evidence(place, image),
        )


def _evidence(image_path: Path, image: Image) -> tuple[Box, ...]:
    """Boxes of the things that are asked about, where the image has an annotation beside it."""
    annotation = image_path.with_suffix(".json")
    if not annotation.is_file():
        return ()
    fields = parse_line(annotation.read_bytes(), annotation.name)
    boxes = [fields.numbers_of("bbox", box, 4) for box in fields.items("bbox")]
    return tuple(clipped(fields, from_xywh(box), image.size) for box in boxes)


VSTAR = Benchmark(
    name="vstar",
    title="V*Bench",
    split="test",
    layouts=(
        Layout({"test": 191}, "test_questions.jsonl", read_vstar, "craigwu/vstar_bench"),
        Layout(
            {"test": 191},
            "vstarbench_test.jsonl",
            reader(AnswerKind.STRING),
            "gsarch/vigorl_datasets, visual_search.tar",
        ),
    ),
    family="visual_search",
    prompts=(MULTI_TURN, "single_turn", "vanilla", "direct"),
    tags=("category",),
    zoom=MappingProxyType({"window_model_px": 364, "shown_px": 672, "dot": False}),
)
