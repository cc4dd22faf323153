from vigorl_lib.rpc.gen.vigorl.common.v1 import error_pb2 as _error_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import example_pb2 as _example_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import trajectory_pb2 as _trajectory_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RewardOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REWARD_OUTCOME_UNSPECIFIED: _ClassVar[RewardOutcome]
    REWARD_OUTCOME_CORRECT: _ClassVar[RewardOutcome]
    REWARD_OUTCOME_WRONG: _ClassVar[RewardOutcome]
    REWARD_OUTCOME_MALFORMED: _ClassVar[RewardOutcome]
    REWARD_OUTCOME_NO_ANSWER: _ClassVar[RewardOutcome]

class DistinctWhen(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DISTINCT_WHEN_UNSPECIFIED: _ClassVar[DistinctWhen]
    DISTINCT_WHEN_CORRECT: _ClassVar[DistinctWhen]
    DISTINCT_WHEN_ALWAYS: _ClassVar[DistinctWhen]
    DISTINCT_WHEN_NEVER: _ClassVar[DistinctWhen]
REWARD_OUTCOME_UNSPECIFIED: RewardOutcome
REWARD_OUTCOME_CORRECT: RewardOutcome
REWARD_OUTCOME_WRONG: RewardOutcome
REWARD_OUTCOME_MALFORMED: RewardOutcome
REWARD_OUTCOME_NO_ANSWER: RewardOutcome
DISTINCT_WHEN_UNSPECIFIED: DistinctWhen
DISTINCT_WHEN_CORRECT: DistinctWhen
DISTINCT_WHEN_ALWAYS: DistinctWhen
DISTINCT_WHEN_NEVER: DistinctWhen

class RewardConfig(_message.Message):
    __slots__ = ("answer_weight", "format_weight", "distinct_bonus", "distinct_radius_px", "distinct_cap", "distinct_when", "require_point", "rule", "evidence_weight")
    ANSWER_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_BONUS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_RADIUS_PX_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_CAP_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_WHEN_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_POINT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    answer_weight: float
    format_weight: float
    distinct_bonus: float
    distinct_radius_px: float
    distinct_cap: int
    distinct_when: DistinctWhen
    require_point: bool
    rule: str
    evidence_weight: float
    def __init__(self, answer_weight: _Optional[float] = ..., format_weight: _Optional[float] = ..., distinct_bonus: _Optional[float] = ..., distinct_radius_px: _Optional[float] = ..., distinct_cap: _Optional[int] = ..., distinct_when: _Optional[_Union[DistinctWhen, str]] = ..., require_point: _Optional[bool] = ..., rule: _Optional[str] = ..., evidence_weight: _Optional[float] = ...) -> None: ...

class ScoreItem(_message.Message):
    __slots__ = ("example", "trajectory")
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    example: _example_pb2.Example
    trajectory: _trajectory_pb2.Trajectory
    def __init__(self, example: _Optional[_Union[_example_pb2.Example, _Mapping]] = ..., trajectory: _Optional[_Union[_trajectory_pb2.Trajectory, _Mapping]] = ...) -> None: ...

class ScoreTrajectoriesRequest(_message.Message):
    __slots__ = ("items", "config")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[ScoreItem]
    config: RewardConfig
    def __init__(self, items: _Optional[_Iterable[_Union[ScoreItem, _Mapping]]] = ..., config: _Optional[_Union[RewardConfig, _Mapping]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("total", "parts", "outcome", "judged_by")
    class PartsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    JUDGED_BY_FIELD_NUMBER: _ClassVar[int]
    total: float
    parts: _containers.ScalarMap[str, float]
    outcome: RewardOutcome
    judged_by: str
    def __init__(self, total: _Optional[float] = ..., parts: _Optional[_Mapping[str, float]] = ..., outcome: _Optional[_Union[RewardOutcome, str]] = ..., judged_by: _Optional[str] = ...) -> None: ...

class ScoreResult(_message.Message):
    __slots__ = ("score", "error")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    score: Score
    error: _error_pb2.ItemError
    def __init__(self, score: _Optional[_Union[Score, _Mapping]] = ..., error: _Optional[_Union[_error_pb2.ItemError, _Mapping]] = ...) -> None: ...

class ScoreTrajectoriesResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ScoreResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ScoreResult, _Mapping]]] = ...) -> None: ...
