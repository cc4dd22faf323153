from vigorl_lib.rpc.gen.vigorl.environment.v1 import zoom_pb2 as _zoom_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskSettings(_message.Message):
    __slots__ = ("family", "mode", "prompt", "temperature", "top_p", "top_k", "max_turn_tokens", "max_tokens", "observation_text_tokens", "force_answer", "zoom", "point_frame", "min_steps_from", "min_steps_to", "few_shot", "prompt_source", "force_answer_greedily")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_TURN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_TEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FORCE_ANSWER_FIELD_NUMBER: _ClassVar[int]
    ZOOM_FIELD_NUMBER: _ClassVar[int]
    POINT_FRAME_FIELD_NUMBER: _ClassVar[int]
    MIN_STEPS_FROM_FIELD_NUMBER: _ClassVar[int]
    MIN_STEPS_TO_FIELD_NUMBER: _ClassVar[int]
    FEW_SHOT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_SOURCE_FIELD_NUMBER: _ClassVar[int]
    FORCE_ANSWER_GREEDILY_FIELD_NUMBER: _ClassVar[int]
    family: str
    mode: str
    prompt: str
    temperature: float
    top_p: float
    top_k: int
    max_turn_tokens: int
    max_tokens: int
    observation_text_tokens: int
    force_answer: bool
    zoom: _zoom_pb2.ZoomConfig
    point_frame: str
    min_steps_from: int
    min_steps_to: int
    few_shot: _containers.RepeatedCompositeFieldContainer[FewShotExample]
    prompt_source: str
    force_answer_greedily: bool
    def __init__(self, family: _Optional[str] = ..., mode: _Optional[str] = ..., prompt: _Optional[str] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., max_turn_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., observation_text_tokens: _Optional[int] = ..., force_answer: _Optional[bool] = ..., zoom: _Optional[_Union[_zoom_pb2.ZoomConfig, _Mapping]] = ..., point_frame: _Optional[str] = ..., min_steps_from: _Optional[int] = ..., min_steps_to: _Optional[int] = ..., few_shot: _Optional[_Iterable[_Union[FewShotExample, _Mapping]]] = ..., prompt_source: _Optional[str] = ..., force_answer_greedily: _Optional[bool] = ...) -> None: ...

class FewShotExample(_message.Message):
    __slots__ = ("image", "question", "replies")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    image: str
    question: str
    replies: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, image: _Optional[str] = ..., question: _Optional[str] = ..., replies: _Optional[_Iterable[str]] = ...) -> None: ...

class SearchSettings(_message.Message):
    __slots__ = ("simulations", "children", "rollouts_per_child", "exploration", "max_depth", "rollout_max_steps", "dedup_radius_px", "stop_when_solved", "trees_in_flight", "limit", "kind", "selection", "max_tree_tokens", "min_path_turns", "stop_when_hopeless", "deadline_s", "simulations_in_flight")
    SIMULATIONS_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_PER_CHILD_FIELD_NUMBER: _ClassVar[int]
    EXPLORATION_FIELD_NUMBER: _ClassVar[int]
    MAX_DEPTH_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    DEDUP_RADIUS_PX_FIELD_NUMBER: _ClassVar[int]
    STOP_WHEN_SOLVED_FIELD_NUMBER: _ClassVar[int]
    TREES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_TREE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_PATH_TURNS_FIELD_NUMBER: _ClassVar[int]
    STOP_WHEN_HOPELESS_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    SIMULATIONS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    simulations: int
    children: int
    rollouts_per_child: int
    exploration: float
    max_depth: int
    rollout_max_steps: int
    dedup_radius_px: float
    stop_when_solved: bool
    trees_in_flight: int
    limit: int
    kind: str
    selection: str
    max_tree_tokens: int
    min_path_turns: int
    stop_when_hopeless: int
    deadline_s: float
    simulations_in_flight: int
    def __init__(self, simulations: _Optional[int] = ..., children: _Optional[int] = ..., rollouts_per_child: _Optional[int] = ..., exploration: _Optional[float] = ..., max_depth: _Optional[int] = ..., rollout_max_steps: _Optional[int] = ..., dedup_radius_px: _Optional[float] = ..., stop_when_solved: _Optional[bool] = ..., trees_in_flight: _Optional[int] = ..., limit: _Optional[int] = ..., kind: _Optional[str] = ..., selection: _Optional[str] = ..., max_tree_tokens: _Optional[int] = ..., min_path_turns: _Optional[int] = ..., stop_when_hopeless: _Optional[int] = ..., deadline_s: _Optional[float] = ..., simulations_in_flight: _Optional[int] = ...) -> None: ...
