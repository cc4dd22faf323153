from vigorl_lib.rpc.gen.vigorl.common.v1 import geometry_pb2 as _geometry_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MalformedReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MALFORMED_REASON_UNSPECIFIED: _ClassVar[MalformedReason]
    MALFORMED_REASON_NO_THOUGHT: _ClassVar[MalformedReason]
    MALFORMED_REASON_UNCLOSED_TAG: _ClassVar[MalformedReason]
    MALFORMED_REASON_NO_ACTION: _ClassVar[MalformedReason]
    MALFORMED_REASON_SEVERAL_ACTIONS: _ClassVar[MalformedReason]
    MALFORMED_REASON_TEXT_OUTSIDE_TAGS: _ClassVar[MalformedReason]
    MALFORMED_REASON_BAD_TOOL_CALL: _ClassVar[MalformedReason]
    MALFORMED_REASON_EMPTY_ANSWER: _ClassVar[MalformedReason]
    MALFORMED_REASON_ACTION_NOT_ALLOWED: _ClassVar[MalformedReason]

class InvalidTurn(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INVALID_TURN_UNSPECIFIED: _ClassVar[InvalidTurn]
    INVALID_TURN_MALFORMED: _ClassVar[InvalidTurn]
    INVALID_TURN_OUTSIDE: _ClassVar[InvalidTurn]
    INVALID_TURN_REPEATED: _ClassVar[InvalidTurn]
    INVALID_TURN_OVER_BUDGET: _ClassVar[InvalidTurn]

class StopReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STOP_REASON_UNSPECIFIED: _ClassVar[StopReason]
    STOP_REASON_ANSWERED: _ClassVar[StopReason]
    STOP_REASON_MAX_TURNS: _ClassVar[StopReason]
    STOP_REASON_MAX_TOKENS: _ClassVar[StopReason]
    STOP_REASON_CONTEXT_OVERFLOW: _ClassVar[StopReason]
    STOP_REASON_INVALID_TURNS: _ClassVar[StopReason]
    STOP_REASON_ENVIRONMENT_ERROR: _ClassVar[StopReason]
    STOP_REASON_POLICY_ERROR: _ClassVar[StopReason]
    STOP_REASON_CANCELLED: _ClassVar[StopReason]
MALFORMED_REASON_UNSPECIFIED: MalformedReason
MALFORMED_REASON_NO_THOUGHT: MalformedReason
MALFORMED_REASON_UNCLOSED_TAG: MalformedReason
MALFORMED_REASON_NO_ACTION: MalformedReason
MALFORMED_REASON_SEVERAL_ACTIONS: MalformedReason
MALFORMED_REASON_TEXT_OUTSIDE_TAGS: MalformedReason
MALFORMED_REASON_BAD_TOOL_CALL: MalformedReason
MALFORMED_REASON_EMPTY_ANSWER: MalformedReason
MALFORMED_REASON_ACTION_NOT_ALLOWED: MalformedReason
INVALID_TURN_UNSPECIFIED: InvalidTurn
INVALID_TURN_MALFORMED: InvalidTurn
INVALID_TURN_OUTSIDE: InvalidTurn
INVALID_TURN_REPEATED: InvalidTurn
INVALID_TURN_OVER_BUDGET: InvalidTurn
STOP_REASON_UNSPECIFIED: StopReason
STOP_REASON_ANSWERED: StopReason
STOP_REASON_MAX_TURNS: StopReason
STOP_REASON_MAX_TOKENS: StopReason
STOP_REASON_CONTEXT_OVERFLOW: StopReason
STOP_REASON_INVALID_TURNS: StopReason
STOP_REASON_ENVIRONMENT_ERROR: StopReason
STOP_REASON_POLICY_ERROR: StopReason
STOP_REASON_CANCELLED: StopReason

class ContinueAction(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ZoomAction(_message.Message):
    __slots__ = ("point",)
    POINT_FIELD_NUMBER: _ClassVar[int]
    point: _geometry_pb2.Point
    def __init__(self, point: _Optional[_Union[_geometry_pb2.Point, _Mapping]] = ...) -> None: ...

class AnswerAction(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class MalformedAction(_message.Message):
    __slots__ = ("reason", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: MalformedReason
    detail: str
    def __init__(self, reason: _Optional[_Union[MalformedReason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("thought", "points", "continue_action", "zoom_action", "answer_action", "malformed_action")
    THOUGHT_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    CONTINUE_ACTION_FIELD_NUMBER: _ClassVar[int]
    ZOOM_ACTION_FIELD_NUMBER: _ClassVar[int]
    ANSWER_ACTION_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_ACTION_FIELD_NUMBER: _ClassVar[int]
    thought: str
    points: _containers.RepeatedCompositeFieldContainer[_geometry_pb2.Point]
    continue_action: ContinueAction
    zoom_action: ZoomAction
    answer_action: AnswerAction
    malformed_action: MalformedAction
    def __init__(self, thought: _Optional[str] = ..., points: _Optional[_Iterable[_Union[_geometry_pb2.Point, _Mapping]]] = ..., continue_action: _Optional[_Union[ContinueAction, _Mapping]] = ..., zoom_action: _Optional[_Union[ZoomAction, _Mapping]] = ..., answer_action: _Optional[_Union[AnswerAction, _Mapping]] = ..., malformed_action: _Optional[_Union[MalformedAction, _Mapping]] = ...) -> None: ...

class TurnRecord(_message.Message):
    __slots__ = ("turn", "text", "finish_reason", "invalid", "detail", "crop", "crop_image")
    TURN_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    CROP_IMAGE_FIELD_NUMBER: _ClassVar[int]
    turn: Turn
    text: str
    finish_reason: str
    invalid: InvalidTurn
    detail: str
    crop: _geometry_pb2.Crop
    crop_image: _image_pb2.Image
    def __init__(self, turn: _Optional[_Union[Turn, _Mapping]] = ..., text: _Optional[str] = ..., finish_reason: _Optional[str] = ..., invalid: _Optional[_Union[InvalidTurn, str]] = ..., detail: _Optional[str] = ..., crop: _Optional[_Union[_geometry_pb2.Crop, _Mapping]] = ..., crop_image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ...) -> None: ...
