from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2 as _reward_service_pb2
from vigorl_lib.rpc.gen.vigorl.search.v1 import task_pb2 as _task_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvaluateRequest(_message.Message):
    __slots__ = ("run_id", "dataset", "split", "limit", "shard_index", "shard_count", "policy", "task", "reward", "seed", "keep_trajectories", "samples", "cache_answers")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SHARD_INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    KEEP_TRAJECTORIES_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    CACHE_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    dataset: str
    split: str
    limit: int
    shard_index: int
    shard_count: int
    policy: str
    task: _task_pb2.TaskSettings
    reward: _reward_service_pb2.RewardConfig
    seed: int
    keep_trajectories: int
    samples: int
    cache_answers: bool
    def __init__(self, run_id: _Optional[str] = ..., dataset: _Optional[str] = ..., split: _Optional[str] = ..., limit: _Optional[int] = ..., shard_index: _Optional[int] = ..., shard_count: _Optional[int] = ..., policy: _Optional[str] = ..., task: _Optional[_Union[_task_pb2.TaskSettings, _Mapping]] = ..., reward: _Optional[_Union[_reward_service_pb2.RewardConfig, _Mapping]] = ..., seed: _Optional[int] = ..., keep_trajectories: _Optional[int] = ..., samples: _Optional[int] = ..., cache_answers: _Optional[bool] = ...) -> None: ...

class SampleResult(_message.Message):
    __slots__ = ("example_id", "correct", "outcome", "stop", "answer", "turns", "zooms", "reward", "invalid", "tags", "point_error_px", "hit", "sample", "image", "judged_by")
    class InvalidEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    CORRECT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    ZOOMS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    POINT_ERROR_PX_FIELD_NUMBER: _ClassVar[int]
    HIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    JUDGED_BY_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    correct: bool
    outcome: str
    stop: str
    answer: str
    turns: int
    zooms: int
    reward: float
    invalid: _containers.ScalarMap[str, int]
    tags: _containers.ScalarMap[str, str]
    point_error_px: float
    hit: bool
    sample: int
    image: str
    judged_by: str
    def __init__(self, example_id: _Optional[str] = ..., correct: _Optional[bool] = ..., outcome: _Optional[str] = ..., stop: _Optional[str] = ..., answer: _Optional[str] = ..., turns: _Optional[int] = ..., zooms: _Optional[int] = ..., reward: _Optional[float] = ..., invalid: _Optional[_Mapping[str, int]] = ..., tags: _Optional[_Mapping[str, str]] = ..., point_error_px: _Optional[float] = ..., hit: _Optional[bool] = ..., sample: _Optional[int] = ..., image: _Optional[str] = ..., judged_by: _Optional[str] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value", "low", "high", "samples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    low: float
    high: float
    samples: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class Metrics(_message.Message):
    __slots__ = ("metrics",)
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.RepeatedCompositeFieldContainer[Metric]
    def __init__(self, metrics: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ...) -> None: ...

class EvaluateResponse(_message.Message):
    __slots__ = ("done", "total", "failed", "resumed", "sample", "metrics")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    failed: int
    resumed: int
    sample: SampleResult
    metrics: Metrics
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ..., failed: _Optional[int] = ..., resumed: _Optional[int] = ..., sample: _Optional[_Union[SampleResult, _Mapping]] = ..., metrics: _Optional[_Union[Metrics, _Mapping]] = ...) -> None: ...
