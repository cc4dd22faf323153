"""The environment's settings and outcomes to protobuf and back; see `vigorl_lib.rpc.convert` for the rules."""

from __future__ import annotations

from pydantic import ValidationError

from vigorl_lib.domain.geometry import Border
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message
from vigorl_lib.domain.wire import Spelling
from vigorl_lib.environment.base import Episode, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.rpc import convert
from vigorl_lib.rpc.convert import EnumMap, ImageFromProto
from vigorl_lib.rpc.gen.vigorl.environment.v1 import environment_service_pb2, zoom_pb2

BORDER = EnumMap(Border, zoom_pb2, "BORDER")
SPELLING = EnumMap(Spelling, zoom_pb2, "SPELLING")

_SOURCES = {"original": zoom_pb2.CROP_SOURCE_ORIGINAL, "model": zoom_pb2.CROP_SOURCE_MODEL}
_ON_INVALID = {
    "tell": zoom_pb2.ON_INVALID_TELL,
    "ignore": zoom_pb2.ON_INVALID_IGNORE,
    "stop": zoom_pb2.ON_INVALID_STOP,
}
_SOURCE_NAMES = {number: name for name, number in _SOURCES.items()}
_ON_INVALID_NAMES = {number: name for name, number in _ON_INVALID.items()}


def zoom_to_proto(config: ZoomConfig) -> zoom_pb2.ZoomConfig:
    return zoom_pb2.ZoomConfig(
        window_model_px=config.window_model_px,
        shown_px=config.shown_px,
        border=BORDER.to_proto(config.border),
        source=_SOURCES[config.source],
        dot=config.dot,
        max_turns=config.max_turns,
        on_invalid=_ON_INVALID[config.on_invalid],
        max_invalid_turns=config.max_invalid_turns,
        min_distance_px=config.min_distance_px,
        strict=config.strict,
        window_share=config.window_share,
        observation=SPELLING.to_proto(config.observation),
        max_zooms=config.max_zooms,
    )


def zoom_from_proto(proto: zoom_pb2.ZoomConfig) -> ZoomConfig:
    """Raises DataError (REQUEST_INVALID) for settings that `ZoomConfig` refuses."""
    values = {
        "window_model_px": proto.window_model_px,
        "shown_px": proto.shown_px,
        "border": BORDER.from_proto(proto.border),
        "source": _SOURCE_NAMES.get(proto.source),
        "dot": proto.dot,
        "max_turns": proto.max_turns,
        "on_invalid": _ON_INVALID_NAMES.get(proto.on_invalid),
        "max_invalid_turns": proto.max_invalid_turns,
        "min_distance_px": proto.min_distance_px,
        "strict": proto.strict,
        "window_share": proto.window_share,
        "observation": SPELLING.from_proto(proto.observation),
        "max_zooms": proto.max_zooms,
    }
    try:
        return ZoomConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise convert.invalid(f"config.{first['loc'][0]}", first["msg"], first.get("input")) from None


def episode_to_proto(episode: Episode) -> environment_service_pb2.StartEpisodeResponse:
    return environment_service_pb2.StartEpisodeResponse(
        state=episode.state, model_size=convert.size_to_proto(episode.model_size)
    )


def episode_from_proto(proto: environment_service_pb2.StartEpisodeResponse) -> Episode:
    return Episode(proto.state, convert.size_from_proto(proto.model_size))


def outcome_to_proto(outcome: Outcome) -> environment_service_pb2.StepResponse:
    observation, crop_image = outcome.observation, outcome.crop_image
    return environment_service_pb2.StepResponse(
        state=outcome.state,
        turn=convert.turn_to_proto(outcome.turn),
        observation=None if observation is None else convert.message_to_proto(observation, convert.image_by_digest),
        stop_reason=convert.STOP_REASON.to_proto(outcome.stop),
        invalid=convert.INVALID_TURN.to_proto(outcome.invalid),
        detail=outcome.detail,
        crop=None if outcome.crop is None else convert.crop_to_proto(outcome.crop),
        crop_image=None if crop_image is None else convert.image_inline(crop_image),
    )


def outcome_from_proto(proto: environment_service_pb2.StepResponse, image: ImageFromProto) -> Outcome:
    """`image` receives the crop inline; the observation refers to it by digest and gets the same object."""
    crop_image = image(proto.crop_image) if proto.HasField("crop_image") else None
    observation = _observation(proto, crop_image) if proto.HasField("observation") else None
    return Outcome(
        state=proto.state,
        turn=convert.turn_from_proto(proto.turn),
        observation=observation,
        stop=convert.STOP_REASON.optional(proto.stop_reason),
        invalid=convert.INVALID_TURN.optional(proto.invalid),
        detail=proto.detail,
        crop=convert.crop_from_proto(proto.crop) if proto.HasField("crop") else None,
        crop_image=crop_image,
    )


def _observation(proto: environment_service_pb2.StepResponse, crop_image: Image | None) -> Message:
    message = convert.message_from_proto(proto.observation, convert.image_reference)
    parts = tuple(crop_image if crop_image is not None and part == crop_image else part for part in message.parts)
    return Message(message.role, parts)
