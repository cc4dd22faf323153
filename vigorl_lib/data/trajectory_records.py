"""How a trajectory is written: one JSON object that holds everything but the pixels.

Segments keep their messages, token ids, image spans, log-probs and versions, turns keep their crops;
reading gives an equal trajectory back. Images stand in one table of the record and are referred to by
digest; their bytes are the image store's. Programs write these records and older programs may read them,
so a field that is not known is skipped. `write_segment` and `read_segment` and their like are the parts
that other records (trees) are made of.
"""

from __future__ import annotations

from typing import Any, TypeVar

from vigorl_lib.data.fields import Fields
from vigorl_lib.data.records import check_version, image_to_record, record_to_image
from vigorl_lib.domain.geometry import Box, Crop, Frame, Point, Size
from vigorl_lib.domain.grammar import Action, Answer, Continue, Malformed, MalformedReason, Turn, Zoom
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import (
    ImageSpan,
    InvalidTurn,
    Message,
    Origin,
    Role,
    Segment,
    StopReason,
    Trajectory,
    TurnRecord,
)
from vigorl_lib.storage.images import ImageStore

VERSION = 1
ImageTable = dict[str, Image]
"""Images of one record by digest, without their bytes."""

_FRAMES = tuple(frame.value for frame in Frame)

E = TypeVar("E", Origin, Role, StopReason, InvalidTurn, MalformedReason, Frame)


def trajectory_to_record(trajectory: Trajectory, *, leave_out: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    """The record of a trajectory. Crop and prompt images must be in the image store for it to be read with them.

    `leave_out` counts the first segments and turns that the reader has from elsewhere.
    """
    segments, turns = leave_out
    images: ImageTable = {}
    size = trajectory.model_size
    return {
        "version": VERSION,
        "id": trajectory.trajectory_id,
        "example_id": trajectory.example_id,
        "mode": trajectory.mode,
        "policy": trajectory.policy,
        "segments": [write_segment(segment, images) for segment in trajectory.segments[segments:]],
        "turns": [write_turn_record(record, images) for record in trajectory.turns[turns:]],
        "stop": trajectory.stop.value,
        "error": trajectory.error,
        "seconds": trajectory.seconds,
        "reward": trajectory.reward,
        "reward_parts": dict(trajectory.reward_parts),
        "outcome": trajectory.outcome,
        "model_size": None if size is None else [size.width, size.height],
        "images": write_images(images),
    }


def record_to_trajectory(record: object, images: ImageStore | None = None, *, where: str = "record") -> Trajectory:
    """The trajectory of a record; with `images` its images hold their bytes.

    Raises DataError (RECORD_INVALID, RECORD_TOO_NEW), ObjectNotFound.
    """
    fields = Fields(record, where)
    check_version(fields, VERSION)
    table = read_images(fields, images)
    reward = fields.number("reward") if "reward" in fields else None
    return Trajectory(
        trajectory_id=fields.text("id"),
        example_id=fields.text("example_id"),
        mode=fields.text("mode"),
        policy=fields.text("policy"),
        segments=tuple(read_segment(part, table) for part in fields.objects("segments")),
        turns=tuple(read_turn_record(part, table) for part in fields.objects("turns")),
        stop=_choice(fields, "stop", StopReason),
        error=fields.text("error", ""),
        seconds=fields.number("seconds", 0.0),
        reward=reward,
        reward_parts=dict(fields.nested("reward_parts").values) if "reward_parts" in fields else {},
        outcome=fields.text("outcome", ""),
        model_size=_size(fields, "model_size") if "model_size" in fields else None,
    )


def stored_trajectory(trajectory: Trajectory, images: ImageStore) -> dict[str, Any]:
    """The record of a trajectory after putting every image that carries bytes into the store."""
    store_images(trajectory, images)
    return trajectory_to_record(trajectory)


def store_images(trajectory: Trajectory, images: ImageStore) -> None:
    """Put every image that carries bytes into the store, so that the trajectory's record can be read with them."""
    for image in _images_of(trajectory):
        if image.data is not None and image.sha256 not in images:
            images.put(image.data)


def write_images(images: ImageTable) -> list[dict[str, Any]]:
    return [image_to_record(image) for image in images.values()]


def read_images(fields: Fields, images: ImageStore | None) -> ImageTable:
    """The image table of a record, with bytes where a store is given."""
    table = {image.sha256: image for image in map(record_to_image, fields.objects("images", ()))}
    return table if images is None else {sha256: images.load(image) for sha256, image in table.items()}


def write_segment(segment: Segment, images: ImageTable) -> dict[str, Any]:
    """The record of a segment; its images are added to the table."""
    record: dict[str, Any] = {
        "origin": segment.origin.value,
        "messages": [write_message(message, images) for message in segment.messages],
    }
    if segment.token_ids is not None:
        record["token_ids"] = list(segment.token_ids)
    if segment.image_spans:
        record["spans"] = [[span.start, span.length, _refer(span.image, images)] for span in segment.image_spans]
    if segment.logprobs:
        record["logprobs"] = list(segment.logprobs)
    if segment.policy_version != -1:
        record["policy_version"] = segment.policy_version
    if segment.trained:
        record["trained"] = True
    return record


def read_segment(fields: Fields, images: ImageTable) -> Segment:
    token_ids = tuple(_integers(fields, "token_ids")) if "token_ids" in fields else None
    logprobs = tuple(fields.items("logprobs", ()))
    if logprobs and len(logprobs) != len(token_ids or ()):
        raise fields.error(f"expected one log-prob a token, found {len(logprobs)} for {len(token_ids or ())} tokens")
    return Segment(
        origin=_choice(fields, "origin", Origin),
        messages=tuple(read_message(part, images) for part in fields.objects("messages")),
        token_ids=token_ids,
        image_spans=tuple(_read_span(fields, value, images) for value in fields.items("spans", ())),
        logprobs=logprobs,
        policy_version=fields.integer("policy_version", -1),
        trained=fields.flag("trained", False),
    )


def write_message(message: Message, images: ImageTable) -> dict[str, Any]:
    parts = [part if isinstance(part, str) else {"image": _refer(part, images)} for part in message.parts]
    return {"role": message.role.value, "parts": parts}


def read_message(fields: Fields, images: ImageTable) -> Message:
    def part(value: object) -> str | Image:
        if isinstance(value, str):
            return value
        return _image(fields, Fields(value, f"{fields.where}: parts").text("image"), images)

    return Message(_choice(fields, "role", Role), tuple(part(value) for value in fields.items("parts")))


def write_turn_record(record: TurnRecord, images: ImageTable) -> dict[str, Any]:
    """The record of a turn; its crop image is added to the table."""
    written: dict[str, Any] = {
        "thought": record.turn.thought,
        "points": [_write_point(point) for point in record.turn.points],
        "action": _write_action(record.turn.action),
        "text": record.text,
        "finish_reason": record.finish_reason,
    }
    if record.invalid is not None:
        written["invalid"] = record.invalid.value
    if record.detail:
        written["detail"] = record.detail
    if record.crop is not None:
        window, shown = record.crop.window, record.crop.shown
        written["crop"] = {
            "window": [window.x0, window.y0, window.x1, window.y1],
            "frame": window.frame.value,
            "shown": [shown.width, shown.height],
        }
    if record.crop_image is not None:
        written["crop_image"] = _refer(record.crop_image, images)
    return written


def read_turn_record(fields: Fields, images: ImageTable) -> TurnRecord:
    points = tuple(_read_point(fields, "points", value) for value in fields.items("points"))
    crop = _read_crop(fields.nested("crop")) if "crop" in fields else None
    crop_image = _image(fields, fields.text("crop_image"), images) if "crop_image" in fields else None
    return TurnRecord(
        turn=Turn(fields.text("thought"), points, _read_action(fields.nested("action"))),
        text=fields.text("text"),
        finish_reason=fields.text("finish_reason"),
        invalid=_choice(fields, "invalid", InvalidTurn) if "invalid" in fields else None,
        detail=fields.text("detail", ""),
        crop=crop,
        crop_image=crop_image,
    )


def _write_action(action: Action) -> dict[str, Any]:
    match action:
        case Continue():
            return {"type": "continue"}
        case Zoom(point):
            return {"type": "zoom", "point": _write_point(point)}
        case Answer(text):
            return {"type": "answer", "text": text}
        case Malformed(reason, detail):
            return {"type": "malformed", "reason": reason.value, "detail": detail}


def _read_action(fields: Fields) -> Action:
    match fields.text("type"):
        case "continue":
            return Continue()
        case "zoom":
            return Zoom(_read_point(fields, "point", fields.items("point")))
        case "answer":
            return Answer(fields.text("text"))
        case "malformed":
            return Malformed(_choice(fields, "reason", MalformedReason), fields.text("detail"))
        case other:
            raise fields.error(f"type: expected continue, zoom, answer or malformed, found {other!r}")


def _write_point(point: Point) -> list[Any]:
    return [point.x, point.y, point.frame.value]


def _read_point(fields: Fields, name: str, value: object) -> Point:
    if not isinstance(value, list) or len(value) != 3 or value[2] not in _FRAMES:
        raise fields.error(f"{name}: expected [x, y, frame], found {value}")
    x, y = fields.numbers_of(name, value[:2], 2)
    return Point(x, y, Frame(value[2]))


def _read_crop(fields: Fields) -> Crop:
    x0, y0, x1, y1 = fields.numbers("window", 4)
    window = Box(x0, y0, x1, y1, _choice(fields, "frame", Frame))
    width, height = fields.numbers("shown", 2)
    return Crop(window, Size(int(width), int(height)))


def _read_span(fields: Fields, value: object, images: ImageTable) -> ImageSpan:
    if not isinstance(value, list) or len(value) != 3 or not all(type(v) is int for v in value[:2]):
        raise fields.error(f"spans: expected [start, length, sha256], found {value}")
    return ImageSpan(value[0], value[1], _image(fields, value[2], images))


def _integers(fields: Fields, name: str) -> list[int]:
    values = fields.items(name)
    # A set of types is one pass in C; these lists are the bulk of a record.
    if not set(map(type, values)) <= {int}:
        raise fields.error(f"{name}: expected whole numbers")
    return values


def _choice(fields: Fields, name: str, kind: type[E]) -> E:
    value = fields.text(name)
    try:
        return kind(value)
    except ValueError:
        raise fields.error(f"{name}: expected one of {', '.join(kind)}, found {value!r}") from None


def _refer(image: Image, images: ImageTable) -> str:
    if image.sha256 not in images:
        images[image.sha256] = image.without_data()
    return image.sha256


def _image(fields: Fields, sha256: str, images: ImageTable) -> Image:
    try:
        return images[sha256]
    except (KeyError, TypeError):
        raise fields.error(f"refers to the image {sha256!r} that is not in the record's table") from None


def _images_of(trajectory: Trajectory) -> list[Image]:
    return [image for segment in trajectory.segments for image in segment.images] + [
        record.crop_image for record in trajectory.turns if record.crop_image is not None
    ]


def _size(fields: Fields, name: str) -> Size:
    width, height = fields.numbers(name, 2)
    return Size(int(width), int(height))
