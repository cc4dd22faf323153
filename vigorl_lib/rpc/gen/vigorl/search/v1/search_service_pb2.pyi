import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import example_pb2 as _example_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import trajectory_pb2 as _trajectory_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import turn_pb2 as _turn_pb2
from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2 as _reward_service_pb2
from vigorl_lib.rpc.gen.vigorl.search.v1 import task_pb2 as _task_pb2
from vigorl_lib.rpc.gen.vigorl.search.v1 import tree_pb2 as _tree_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SolveRequest(_message.Message):
    __slots__ = ("policy", "image", "question", "task", "seed")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    policy: str
    image: _image_pb2.Image
    question: str
    task: _task_pb2.TaskSettings
    seed: int
    def __init__(self, policy: _Optional[str] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., question: _Optional[str] = ..., task: _Optional[_Union[_task_pb2.TaskSettings, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class SolveResponse(_message.Message):
    __slots__ = ("turn", "trajectory")
    TURN_FIELD_NUMBER: _ClassVar[int]
    TRAJECTORY_FIELD_NUMBER: _ClassVar[int]
    turn: _turn_pb2.TurnRecord
    trajectory: _trajectory_pb2.Trajectory
    def __init__(self, turn: _Optional[_Union[_turn_pb2.TurnRecord, _Mapping]] = ..., trajectory: _Optional[_Union[_trajectory_pb2.Trajectory, _Mapping]] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("policy", "example", "task", "reward", "search", "seed")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    EXAMPLE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    policy: str
    example: _example_pb2.Example
    task: _task_pb2.TaskSettings
    reward: _reward_service_pb2.RewardConfig
    search: _task_pb2.SearchSettings
    seed: int
    def __init__(self, policy: _Optional[str] = ..., example: _Optional[_Union[_example_pb2.Example, _Mapping]] = ..., task: _Optional[_Union[_task_pb2.TaskSettings, _Mapping]] = ..., reward: _Optional[_Union[_reward_service_pb2.RewardConfig, _Mapping]] = ..., search: _Optional[_Union[_task_pb2.SearchSettings, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class TreeProgress(_message.Message):
    __slots__ = ("simulations", "rollouts", "solved")
    SIMULATIONS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    SOLVED_FIELD_NUMBER: _ClassVar[int]
    simulations: int
    rollouts: int
    solved: bool
    def __init__(self, simulations: _Optional[int] = ..., rollouts: _Optional[int] = ..., solved: _Optional[bool] = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("progress", "tree")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    progress: TreeProgress
    tree: _tree_pb2.SearchTree
    def __init__(self, progress: _Optional[_Union[TreeProgress, _Mapping]] = ..., tree: _Optional[_Union[_tree_pb2.SearchTree, _Mapping]] = ...) -> None: ...

class SearchDatasetRequest(_message.Message):
    __slots__ = ("run_id", "dataset", "split", "shard_index", "shard_count", "policy", "task", "reward", "search", "seed")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    SHARD_INDEX_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    dataset: str
    split: str
    shard_index: int
    shard_count: int
    policy: str
    task: _task_pb2.TaskSettings
    reward: _reward_service_pb2.RewardConfig
    search: _task_pb2.SearchSettings
    seed: int
    def __init__(self, run_id: _Optional[str] = ..., dataset: _Optional[str] = ..., split: _Optional[str] = ..., shard_index: _Optional[int] = ..., shard_count: _Optional[int] = ..., policy: _Optional[str] = ..., task: _Optional[_Union[_task_pb2.TaskSettings, _Mapping]] = ..., reward: _Optional[_Union[_reward_service_pb2.RewardConfig, _Mapping]] = ..., search: _Optional[_Union[_task_pb2.SearchSettings, _Mapping]] = ..., seed: _Optional[int] = ...) -> None: ...

class SearchDatasetResponse(_message.Message):
    __slots__ = ("done", "total", "failed", "solved", "resumed", "elapsed", "failures", "broken_rollouts", "trees_per_second", "eta")
    class FailuresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class BrokenRolloutsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    SOLVED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    BROKEN_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    TREES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ETA_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    failed: int
    solved: int
    resumed: int
    elapsed: _duration_pb2.Duration
    failures: _containers.ScalarMap[str, int]
    broken_rollouts: _containers.ScalarMap[str, int]
    trees_per_second: float
    eta: _duration_pb2.Duration
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ..., failed: _Optional[int] = ..., solved: _Optional[int] = ..., resumed: _Optional[int] = ..., elapsed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., failures: _Optional[_Mapping[str, int]] = ..., broken_rollouts: _Optional[_Mapping[str, int]] = ..., trees_per_second: _Optional[float] = ..., eta: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
