"""The paper's two sets outside its domains: MMMU (college questions with up to seven images) and RealWorldQA."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.evaluation.benchmarks.files import Files, cell_image, numbered_images
from vigorl_lib.evaluation.benchmarks.questions import choice_example, chosen, split_options, without_instruction
from vigorl_lib.evaluation.benchmarks.spec import Benchmark, Layout

MULTIPLE_CHOICE, OPEN = "multiple-choice", "open"


def read_mmmu(files: Files) -> Iterator[Example]:
    """`id`, `question`, `options` (a list as text), `answer`, `question_type`, `image_1` to `image_7`, `subfield`.

    Images stand in front of the question in their order; its marks `<image 1>` stay and name them. The answer of an
    open question may be a list as text: any of its spellings is right.
    """
    for _, row in files.rows():
        images = numbered_images(row, 7)
        # validation_Accounting_1: the subject is a folder on the hub and stands in no other field.
        subject = row.text("id").split("_", 1)[-1].rsplit("_", 1)[0]
        kind = row.text("question_type")
        tags = {"subject": subject, "question_type": kind}
        if kind == MULTIPLE_CHOICE:
            choices = _listed(row, "options")
            yield choice_example(
                row,
                example_id=row.text("id"),
                question=row.text("question"),
                choices=choices,
                answer=chosen(row, row.text("answer"), choices),
                images=images,
                tags=tags,
            )
        elif kind == OPEN:
            answer, *accepted = _listed(row, "answer")
            truth = GroundTruth(answer, AnswerKind.STRING, accepted=tuple(accepted))
            yield Example(row.text("id"), row.text("question").strip(), images, truth, tags=tags)
        else:
            raise row.error(f"question_type: expected {MULTIPLE_CHOICE} or {OPEN}, found {kind!r}")


def read_realworldqa(files: Files) -> Iterator[Example]:
    """`image`, `question` (options, if any, are its lines), `answer` (a letter, a word or a number)."""
    for number, (_, row) in enumerate(files.rows()):
        image = cell_image(row, "image")
        text = without_instruction(row.text("question"), r"\s*Please answer directly")
        question, choices = split_options(text)
        answer, example_id = row.text("answer").strip(), f"{files.split}-{number}"
        if choices:
            yield choice_example(
                row,
                example_id=example_id,
                question=question,
                choices=choices,
                answer=chosen(row, answer, choices),
                images=(image,),
                tags={"form": "choice"},
            )
        else:
            yield Example(example_id, question, (image,), GroundTruth(answer), tags={"form": "open"})


def _listed(row: Fields, name: str) -> list[str]:
    """A field that holds a list as Python writes it; any other text is a list of itself."""
    text = row.text(name).strip()
    if not text.startswith("["):
        return [text]
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        values = []
    if not values:
        raise row.error(f"{name}: expected a list of texts, found {text!r}")
    return [str(value).strip() for value in values]


MMMU = Benchmark(
    name="mmmu",
    title="MMMU",
    split="validation",
    layouts=(
        Layout({"validation": 900, "dev": 150}, "{split}-*.parquet", read_mmmu, "MMMU/MMMU, a folder each subject"),
    ),
    family="general_qa",
    prompts=("single_turn", "vanilla", "direct"),
    tags=("subject", "question_type"),
)
REALWORLDQA = replace(
    MMMU,
    name="realworldqa",
    title="RealWorldQA",
    split="test",
    layouts=(Layout({"test": 765}, "{split}-*.parquet", read_realworldqa, "xai-org/RealworldQA"),),
    tags=("form",),
)
