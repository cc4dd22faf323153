"""How an example is written: one JSON object, images by digest, boxes in pixels of the original.

The format is for people too, so a field that is not known is refused, with the name that was probably
meant. `docs/data.md` describes it. Trajectories are `vigorl_lib.data.trajectory_records`.
"""

from __future__ import annotations

from typing import Any

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Frame, Point, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError
from vigorl_lib.storage.images import ImageStore

VERSION = 1
"""Version of the example format. A record of a later version is refused; one without a version is of this one."""

TRUTH_FIELDS = ("answer", "kind", "choices", "box", "evidence", "distractors", "region", "accepted")
FIELDS = ("version", "id", "question", "images", *TRUTH_FIELDS, "task", "tags")


def example_to_record(example: Example) -> dict[str, Any]:
    """The record of an example; fields at their default are left out. Raises DataError for a box of another frame."""
    truth = example.truth
    record: dict[str, Any] = {
        "version": VERSION,
        "id": example.example_id,
        "question": example.question,
        "images": [image_to_record(image) for image in example.images],
        "answer": truth.answer,
        "kind": truth.kind.value,
        "choices": list(truth.choices),
        "box": None if truth.box is None else _corners(truth.box),
        "evidence": [_corners(box) for box in truth.evidence],
        "distractors": [_corners(box) for box in truth.distractors],
        "region": [[corner.x, corner.y] for corner in truth.region],
        "accepted": list(truth.accepted),
        "task": example.task,
        "tags": dict(example.tags),
    }
    return {name: value for name, value in record.items() if value not in (None, "", [], {})}


def record_to_example(record: object, images: ImageStore | None = None, *, where: str = "record") -> Example:
    """The example of a record; with `images` it holds the images' bytes, without it only their digests.

    `where` (`file:line`) stands in front of every message. Raises DataError (RECORD_INVALID,
    RECORD_TOO_NEW), ObjectNotFound.
    """
    fields = Fields(record, where)
    fields.refuse_unknown(FIELDS)
    check_version(fields, VERSION)
    pictures = tuple(record_to_image(part) for part in fields.objects("images"))
    if not pictures:
        raise fields.error("images: expected at least one image")
    return Example(
        example_id=_not_empty(fields, "id"),
        question=_not_empty(fields, "question"),
        images=pictures if images is None else tuple(images.load(picture) for picture in pictures),
        truth=read_truth(fields, pictures[0].size),
        task=fields.text("task", ""),
        tags=read_tags(fields),
    )


def read_truth(fields: Fields, size: Size) -> GroundTruth:
    """Ground truth of a record about an image of `size`. Raises DataError where the parts do not fit each other."""
    try:
        kind = AnswerKind(fields.text("kind", AnswerKind.STRING))
    except ValueError:
        known = ", ".join(AnswerKind)
        raise fields.error(f"kind: expected one of {known}, found {fields.text('kind')!r}") from None
    # A question for a point is answered by its box.
    answer = fields.text("answer", "") if kind is AnswerKind.POINT else _not_empty(fields, "answer")
    choices = tuple(fields.items("choices", ()))
    if not all(isinstance(choice, str) for choice in choices):
        raise fields.error("choices: expected a list of texts")
    if kind is AnswerKind.CHOICE and answer not in choices:
        raise fields.error(f"answer: expected one of the choices {list(choices)}, found {answer!r}")
    box = read_box(fields, "box", fields.items("box"), size) if "box" in fields else None
    if kind is AnswerKind.POINT and box is None:
        raise fields.error("the field 'box' is missing; a question for a point needs the region that is right")
    evidence = tuple(read_box(fields, "evidence", value, size) for value in fields.items("evidence", ()))
    distractors = tuple(read_box(fields, "distractors", value, size) for value in fields.items("distractors", ()))
    corners = [fields.numbers_of("region", corner, 2) for corner in fields.items("region", ())]
    region = tuple(Point(x, y, Frame.ORIGINAL) for x, y in corners)
    if region and (box is None or len(region) < 3):
        raise fields.error("region: expected at least three corners [x, y], and the box around them")
    accepted = tuple(fields.items("accepted", ()))
    if not all(isinstance(spelling, str) for spelling in accepted):
        raise fields.error("accepted: expected a list of texts")
    return GroundTruth(answer, kind, choices, box, evidence, distractors, region, accepted)


def read_box(fields: Fields, name: str, value: object, size: Size) -> Box:
    """A box `[x0, y0, x1, y1]`, half open, that lies on an image of `size`."""
    x0, y0, x1, y1 = fields.numbers_of(name, value, 4)
    if not (0 <= x0 < x1 <= size.width and 0 <= y0 < y1 <= size.height):
        raise fields.error(
            f"{name}: expected [x0, y0, x1, y1] with x0 < x1 and y0 < y1 in pixels of the image "
            f"({size.width}x{size.height}), found {value}"
        )
    return Box(x0, y0, x1, y1, Frame.ORIGINAL)


def read_tags(fields: Fields) -> dict[str, str]:
    tags = fields.nested("tags").values if "tags" in fields else {}
    if not all(isinstance(value, str) for value in tags.values()):
        raise fields.error("tags: expected texts by name")
    return dict(tags)


def image_to_record(image: Image) -> dict[str, Any]:
    return {
        "sha256": image.sha256,
        "media_type": image.media_type,
        "width": image.size.width,
        "height": image.size.height,
    }


def record_to_image(fields: Fields) -> Image:
    """An image without its bytes."""
    return Image(
        fields.text("sha256"), fields.text("media_type"), Size(fields.integer("width"), fields.integer("height"))
    )


def check_version(fields: Fields, version: int) -> None:
    """Raise DataError (RECORD_TOO_NEW) for a record of a later format."""
    found = fields.integer("version", version)
    if found > version:
        raise fields.error(
            f"expected a record of version {version} or before, found {found}; read it with a newer release",
            reason="RECORD_TOO_NEW",
        )


def _not_empty(fields: Fields, name: str) -> str:
    value = fields.text(name)
    if not value.strip():
        raise fields.error(f"{name}: expected some text, found none")
    return value


def _corners(box: Box) -> list[float]:
    if box.frame is not Frame.ORIGINAL:
        raise DataError(f"ground truth is in the original frame, found {box.frame}", reason="FRAME_MISMATCH")
    return [box.x0, box.y0, box.x1, box.y1]
