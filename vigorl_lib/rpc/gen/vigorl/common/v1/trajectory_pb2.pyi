import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2 as _conversation_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Trajectory(_message.Message):
    __slots__ = ("trajectory_id", "example_id", "mode", "policy", "segments", "turns", "stop_reason", "error", "duration", "reward", "reward_parts", "outcome", "model_size")
    class RewardPartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TRAJECTORY_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    REWARD_PARTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    trajectory_id: str
    example_id: str
    mode: str
    policy: str
    segments: _containers.RepeatedCompositeFieldContainer[_conversation_pb2.Segment]
    turns: _containers.RepeatedCompositeFieldContainer[_turn_pb2.TurnRecord]
    stop_reason: _turn_pb2.StopReason
    error: str
    duration: _duration_pb2.Duration
    reward: float
    reward_parts: _containers.ScalarMap[str, float]
    outcome: str
    model_size: _image_pb2.Size
    def __init__(self, trajectory_id: _Optional[str] = ..., example_id: _Optional[str] = ..., mode: _Optional[str] = ..., policy: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[_conversation_pb2.Segment, _Mapping]]] = ..., turns: _Optional[_Iterable[_Union[_turn_pb2.TurnRecord, _Mapping]]] = ..., stop_reason: _Optional[_Union[_turn_pb2.StopReason, str]] = ..., error: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reward: _Optional[float] = ..., reward_parts: _Optional[_Mapping[str, float]] = ..., outcome: _Optional[str] = ..., model_size: _Optional[_Union[_image_pb2.Size, _Mapping]] = ...) -> None: ...
