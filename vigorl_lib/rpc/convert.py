"""The domain's vocabulary to protobuf and back. Conversion only: nothing is sent, looked up or decided.

Both ways are exact for values that the wire can hold (log-probabilities are 32-bit floats). What comes
from the wire is checked here: a value that no domain object can be made of raises DataError
(REQUEST_INVALID) that names the field. Whether an image travels with its bytes or by digest is for
the caller to say, by the `ImageToProto` and `ImageFromProto` that it hands in.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Any, Generic, TypeVar

from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Frame, Point, ResizeRule, Size
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
from vigorl_lib.errors import DataError
from vigorl_lib.rpc.gen.vigorl.common.v1 import (
    conversation_pb2,
    example_pb2,
    geometry_pb2,
    image_pb2,
    trajectory_pb2,
    turn_pb2,
)

ImageToProto = Callable[[Image], image_pb2.Image]
ImageFromProto = Callable[[image_pb2.Image], Image]

EnumT = TypeVar("EnumT", bound=StrEnum)


def invalid(field: str, expected: str, found: object) -> DataError:
    """The error for a field of a request that means nothing."""
    return DataError(f"{field}: expected {expected}, found {found}", reason="REQUEST_INVALID", field=field)


class EnumMap(Generic[EnumT]):
    """A domain enum beside its proto enum, whose value names are `<PREFIX>_<NAME>`; 0 is unspecified."""

    def __init__(self, domain: type[EnumT], proto: object, prefix: str) -> None:
        self._field = prefix.lower()
        self._numbers = {member: int(getattr(proto, f"{prefix}_{member.name}")) for member in domain}
        self._members = {number: member for member, number in self._numbers.items()}

    def to_proto(self, member: EnumT | None) -> Any:
        """The number; `Any`, as each proto enum is a type of its own to a checker and an int at run time."""
        return 0 if member is None else self._numbers[member]

    def from_proto(self, number: int) -> EnumT:
        """Raises DataError for a number that this version does not know."""
        member = self._members.get(number)
        if member is None:
            raise invalid(self._field, f"one of {', '.join(self._numbers)}", f"the number {number}")
        return member

    def optional(self, number: int) -> EnumT | None:
        """None for unspecified."""
        return None if number == 0 else self.from_proto(number)


FRAME = EnumMap(Frame, geometry_pb2, "FRAME")
ROLE = EnumMap(Role, conversation_pb2, "ROLE")
ORIGIN = EnumMap(Origin, conversation_pb2, "ORIGIN")
MALFORMED_REASON = EnumMap(MalformedReason, turn_pb2, "MALFORMED_REASON")
INVALID_TURN = EnumMap(InvalidTurn, turn_pb2, "INVALID_TURN")
STOP_REASON = EnumMap(StopReason, turn_pb2, "STOP_REASON")
ANSWER_KIND = EnumMap(AnswerKind, example_pb2, "ANSWER_KIND")


# Geometry


def size_to_proto(size: Size) -> image_pb2.Size:
    return image_pb2.Size(width_px=size.width, height_px=size.height)


def size_from_proto(proto: image_pb2.Size) -> Size:
    return Size(proto.width_px, proto.height_px)


def point_to_proto(point: Point) -> geometry_pb2.Point:
    return geometry_pb2.Point(x=point.x, y=point.y, frame=FRAME.to_proto(point.frame))


def point_from_proto(proto: geometry_pb2.Point) -> Point:
    return Point(proto.x, proto.y, FRAME.from_proto(proto.frame))


def box_to_proto(box: Box) -> geometry_pb2.Box:
    return geometry_pb2.Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1, frame=FRAME.to_proto(box.frame))


def box_from_proto(proto: geometry_pb2.Box) -> Box:
    return Box(proto.x0, proto.y0, proto.x1, proto.y1, FRAME.from_proto(proto.frame))


def crop_to_proto(crop: Crop) -> geometry_pb2.Crop:
    return geometry_pb2.Crop(window=box_to_proto(crop.window), shown=size_to_proto(crop.shown))


def crop_from_proto(proto: geometry_pb2.Crop) -> Crop:
    return Crop(box_from_proto(proto.window), size_from_proto(proto.shown))


def resize_to_proto(rule: ResizeRule) -> geometry_pb2.ResizeRule:
    return geometry_pb2.ResizeRule(factor=rule.factor, min_pixels=rule.min_pixels, max_pixels=rule.max_pixels)


def resize_from_proto(proto: geometry_pb2.ResizeRule) -> ResizeRule:
    if not (proto.factor > 0 and proto.factor**2 <= proto.max_pixels and proto.min_pixels <= proto.max_pixels):
        limits = f"factor {proto.factor}, min_pixels {proto.min_pixels}, max_pixels {proto.max_pixels}"
        raise invalid("resize", "factor > 0, factor² <= max_pixels, min_pixels <= max_pixels", limits)
    return ResizeRule(proto.factor, proto.min_pixels, proto.max_pixels)


# Images


def image_inline(image: Image) -> image_pb2.Image:
    """With its bytes. Raises DataError (IMAGE_NOT_AT_HAND) where there are none."""
    if image.data is None:
        raise DataError(
            f"the image {image.sha256} has no bytes at hand; load it from storage first",
            reason="IMAGE_NOT_AT_HAND",
            sha256=image.sha256,
        )
    inline = image_pb2.InlineImage(data=image.data)
    return image_pb2.Image(media_type=image.media_type, size=size_to_proto(image.size), inline=inline)


def image_by_digest(image: Image) -> image_pb2.Image:
    reference = image_pb2.ImageDigest(sha256=image.sha256)
    return image_pb2.Image(media_type=image.media_type, size=size_to_proto(image.size), digest=reference)


def image_reference(proto: image_pb2.Image) -> Image:
    """An image sent by digest, without its bytes. Raises DataError for any other source."""
    if proto.WhichOneof("source") != "digest":
        raise invalid("image.source", "a digest", proto.WhichOneof("source") or "nothing")
    return Image(proto.digest.sha256, proto.media_type, size_from_proto(proto.size))


# Conversations


def message_to_proto(message: Message, image: ImageToProto) -> conversation_pb2.Message:
    parts = [
        conversation_pb2.Part(text=part) if isinstance(part, str) else conversation_pb2.Part(image=image(part))
        for part in message.parts
    ]
    return conversation_pb2.Message(role=ROLE.to_proto(message.role), parts=parts)


def message_from_proto(proto: conversation_pb2.Message, image: ImageFromProto) -> Message:
    parts = tuple(part.text if part.WhichOneof("kind") == "text" else image(part.image) for part in proto.parts)
    return Message(ROLE.from_proto(proto.role), parts)


def tokens_to_proto(segment: Segment) -> conversation_pb2.Tokens:
    images = segment.images
    spans = [
        conversation_pb2.ImageSpan(start=span.start, length=span.length, image_index=images.index(span.image))
        for span in segment.image_spans
    ]
    return conversation_pb2.Tokens(ids=segment.token_ids, image_spans=spans)


def spans_from_proto(proto: conversation_pb2.Tokens, images: tuple[Image, ...]) -> tuple[ImageSpan, ...]:
    spans = []
    for span in proto.image_spans:
        if span.image_index >= len(images) or span.start + span.length > len(proto.ids):
            bound = f"image_index < {len(images)} and start + length <= {len(proto.ids)}"
            raise invalid("image_spans", bound, f"{span.image_index}, {span.start} + {span.length}")
        spans.append(ImageSpan(span.start, span.length, images[span.image_index]))
    return tuple(spans)


def segment_to_proto(segment: Segment, image: ImageToProto) -> conversation_pb2.Segment:
    return conversation_pb2.Segment(
        origin=ORIGIN.to_proto(segment.origin),
        messages=[message_to_proto(message, image) for message in segment.messages],
        tokens=None if segment.token_ids is None else tokens_to_proto(segment),
        logprobs=segment.logprobs,
        policy_version=None if segment.policy_version < 0 else segment.policy_version,
        trained=segment.trained,
    )


def segment_from_proto(proto: conversation_pb2.Segment, image: ImageFromProto) -> Segment:
    segment = Segment(
        origin=ORIGIN.from_proto(proto.origin),
        messages=tuple(message_from_proto(message, image) for message in proto.messages),
        logprobs=tuple(proto.logprobs),
        policy_version=proto.policy_version if proto.HasField("policy_version") else -1,
        trained=proto.trained,
    )
    if not proto.HasField("tokens"):
        return segment
    return segment.rendered(tuple(proto.tokens.ids), spans_from_proto(proto.tokens, segment.images))


# Turns


def turn_to_proto(turn: Turn) -> turn_pb2.Turn:
    proto = turn_pb2.Turn(thought=turn.thought, points=[point_to_proto(point) for point in turn.points])
    match turn.action:
        case Continue():
            proto.continue_action.SetInParent()
        case Zoom(point):
            proto.zoom_action.point.CopyFrom(point_to_proto(point))
        case Answer(text):
            # An answer may be empty, and a message whose fields are all default must still be present.
            proto.answer_action.SetInParent()
            proto.answer_action.text = text
        case Malformed(reason, detail):
            proto.malformed_action.reason = MALFORMED_REASON.to_proto(reason)
            proto.malformed_action.detail = detail
    return proto


def turn_from_proto(proto: turn_pb2.Turn) -> Turn:
    return Turn(proto.thought, tuple(point_from_proto(point) for point in proto.points), _action(proto))


def _action(proto: turn_pb2.Turn) -> Action:
    match proto.WhichOneof("action"):
        case "continue_action":
            return Continue()
        case "zoom_action":
            return Zoom(point_from_proto(proto.zoom_action.point))
        case "answer_action":
            return Answer(proto.answer_action.text)
        case "malformed_action":
            action = proto.malformed_action
            return Malformed(MALFORMED_REASON.from_proto(action.reason), action.detail)
    raise invalid("turn.action", "an action", "none")


def record_to_proto(record: TurnRecord, image: ImageToProto) -> turn_pb2.TurnRecord:
    return turn_pb2.TurnRecord(
        turn=turn_to_proto(record.turn),
        text=record.text,
        finish_reason=record.finish_reason,
        invalid=INVALID_TURN.to_proto(record.invalid),
        detail=record.detail,
        crop=None if record.crop is None else crop_to_proto(record.crop),
        crop_image=None if record.crop_image is None else image(record.crop_image),
    )


def record_from_proto(proto: turn_pb2.TurnRecord, image: ImageFromProto) -> TurnRecord:
    return TurnRecord(
        turn=turn_from_proto(proto.turn),
        text=proto.text,
        finish_reason=proto.finish_reason,
        invalid=INVALID_TURN.optional(proto.invalid),
        detail=proto.detail,
        crop=crop_from_proto(proto.crop) if proto.HasField("crop") else None,
        crop_image=image(proto.crop_image) if proto.HasField("crop_image") else None,
    )


# Examples and trajectories


def example_to_proto(example: Example, image: ImageToProto) -> example_pb2.Example:
    truth = example.truth
    return example_pb2.Example(
        example_id=example.example_id,
        question=example.question,
        images=[image(one) for one in example.images],
        truth=example_pb2.GroundTruth(
            answer=truth.answer,
            kind=ANSWER_KIND.to_proto(truth.kind),
            choices=truth.choices,
            box=None if truth.box is None else box_to_proto(truth.box),
            evidence=[box_to_proto(box) for box in truth.evidence],
            distractors=[box_to_proto(box) for box in truth.distractors],
            region=[point_to_proto(corner) for corner in truth.region],
            accepted=truth.accepted,
        ),
        task=example.task,
        tags=example.tags,
    )


def example_from_proto(proto: example_pb2.Example, image: ImageFromProto) -> Example:
    truth = GroundTruth(
        answer=proto.truth.answer,
        kind=ANSWER_KIND.from_proto(proto.truth.kind),
        choices=tuple(proto.truth.choices),
        box=box_from_proto(proto.truth.box) if proto.truth.HasField("box") else None,
        evidence=tuple(box_from_proto(box) for box in proto.truth.evidence),
        distractors=tuple(box_from_proto(box) for box in proto.truth.distractors),
        region=tuple(point_from_proto(corner) for corner in proto.truth.region),
        accepted=tuple(proto.truth.accepted),
    )
    images = tuple(image(one) for one in proto.images)
    return Example(proto.example_id, proto.question, images, truth, proto.task, dict(proto.tags))


def trajectory_to_proto(trajectory: Trajectory, image: ImageToProto) -> trajectory_pb2.Trajectory:
    return trajectory_pb2.Trajectory(
        trajectory_id=trajectory.trajectory_id,
        example_id=trajectory.example_id,
        mode=trajectory.mode,
        policy=trajectory.policy,
        segments=[segment_to_proto(segment, image) for segment in trajectory.segments],
        turns=[record_to_proto(record, image) for record in trajectory.turns],
        stop_reason=STOP_REASON.to_proto(trajectory.stop),
        error=trajectory.error,
        duration=timedelta(seconds=trajectory.seconds),
        reward=trajectory.reward,
        reward_parts=trajectory.reward_parts,
        outcome=trajectory.outcome,
        model_size=None if trajectory.model_size is None else size_to_proto(trajectory.model_size),
    )


def trajectory_from_proto(proto: trajectory_pb2.Trajectory, image: ImageFromProto) -> Trajectory:
    return Trajectory(
        trajectory_id=proto.trajectory_id,
        example_id=proto.example_id,
        mode=proto.mode,
        policy=proto.policy,
        segments=tuple(segment_from_proto(segment, image) for segment in proto.segments),
        turns=tuple(record_from_proto(record, image) for record in proto.turns),
        stop=STOP_REASON.from_proto(proto.stop_reason),
        error=proto.error,
        seconds=proto.duration.ToTimedelta().total_seconds(),
        reward=proto.reward if proto.HasField("reward") else None,
        reward_parts=dict(proto.reward_parts),
        outcome=proto.outcome,
        model_size=size_from_proto(proto.model_size) if proto.HasField("model_size") else None,
    )
