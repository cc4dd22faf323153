from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2 as _conversation_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import trajectory_pb2 as _trajectory_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import turn_pb2 as _turn_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SeedName(_message.Message):
    __slots__ = ("text", "number")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    text: str
    number: int
    def __init__(self, text: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class TreeNode(_message.Message):
    __slots__ = ("parent", "segments", "turn", "state", "seed_path", "stop_reason", "visit_count", "value", "exhausted")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SEED_PATH_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    VISIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    EXHAUSTED_FIELD_NUMBER: _ClassVar[int]
    parent: int
    segments: _containers.RepeatedCompositeFieldContainer[_conversation_pb2.Segment]
    turn: _turn_pb2.TurnRecord
    state: bytes
    seed_path: _containers.RepeatedCompositeFieldContainer[SeedName]
    stop_reason: _turn_pb2.StopReason
    visit_count: int
    value: float
    exhausted: bool
    def __init__(self, parent: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[_conversation_pb2.Segment, _Mapping]]] = ..., turn: _Optional[_Union[_turn_pb2.TurnRecord, _Mapping]] = ..., state: _Optional[bytes] = ..., seed_path: _Optional[_Iterable[_Union[SeedName, _Mapping]]] = ..., stop_reason: _Optional[_Union[_turn_pb2.StopReason, str]] = ..., visit_count: _Optional[int] = ..., value: _Optional[float] = ..., exhausted: _Optional[bool] = ...) -> None: ...

class TreeRollout(_message.Message):
    __slots__ = ("node", "trajectory", "value")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    node: int
    trajectory: _trajectory_pb2.Trajectory
    value: float
    def __init__(self, node: _Optional[int] = ..., trajectory: _Optional[_Union[_trajectory_pb2.Trajectory, _Mapping]] = ..., value: _Optional[float] = ...) -> None: ...

class SearchTree(_message.Message):
    __slots__ = ("tree_id", "example_id", "policy", "nodes", "rollouts", "simulations", "end_reason", "error", "turns", "tokens")
    TREE_ID_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    SIMULATIONS_FIELD_NUMBER: _ClassVar[int]
    END_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tree_id: str
    example_id: str
    policy: str
    nodes: _containers.RepeatedCompositeFieldContainer[TreeNode]
    rollouts: _containers.RepeatedCompositeFieldContainer[TreeRollout]
    simulations: int
    end_reason: str
    error: str
    turns: int
    tokens: int
    def __init__(self, tree_id: _Optional[str] = ..., example_id: _Optional[str] = ..., policy: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[TreeNode, _Mapping]]] = ..., rollouts: _Optional[_Iterable[_Union[TreeRollout, _Mapping]]] = ..., simulations: _Optional[int] = ..., end_reason: _Optional[str] = ..., error: _Optional[str] = ..., turns: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...
