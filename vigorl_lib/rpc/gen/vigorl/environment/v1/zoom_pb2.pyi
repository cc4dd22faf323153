from vigorl_lib.rpc.gen.vigorl.common.v1 import geometry_pb2 as _geometry_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Border(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BORDER_UNSPECIFIED: _ClassVar[Border]
    BORDER_SHIFT: _ClassVar[Border]
    BORDER_CLAMP: _ClassVar[Border]

class CropSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CROP_SOURCE_UNSPECIFIED: _ClassVar[CropSource]
    CROP_SOURCE_ORIGINAL: _ClassVar[CropSource]
    CROP_SOURCE_MODEL: _ClassVar[CropSource]

class OnInvalid(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_INVALID_UNSPECIFIED: _ClassVar[OnInvalid]
    ON_INVALID_TELL: _ClassVar[OnInvalid]
    ON_INVALID_IGNORE: _ClassVar[OnInvalid]
    ON_INVALID_STOP: _ClassVar[OnInvalid]

class Spelling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPELLING_UNSPECIFIED: _ClassVar[Spelling]
    SPELLING_GRPO: _ClassVar[Spelling]
    SPELLING_SFT: _ClassVar[Spelling]
    SPELLING_EVAL: _ClassVar[Spelling]
    SPELLING_DEMO: _ClassVar[Spelling]
BORDER_UNSPECIFIED: Border
BORDER_SHIFT: Border
BORDER_CLAMP: Border
CROP_SOURCE_UNSPECIFIED: CropSource
CROP_SOURCE_ORIGINAL: CropSource
CROP_SOURCE_MODEL: CropSource
ON_INVALID_UNSPECIFIED: OnInvalid
ON_INVALID_TELL: OnInvalid
ON_INVALID_IGNORE: OnInvalid
ON_INVALID_STOP: OnInvalid
SPELLING_UNSPECIFIED: Spelling
SPELLING_GRPO: Spelling
SPELLING_SFT: Spelling
SPELLING_EVAL: Spelling
SPELLING_DEMO: Spelling

class ZoomConfig(_message.Message):
    __slots__ = ("window_model_px", "shown_px", "border", "source", "dot", "max_turns", "on_invalid", "max_invalid_turns", "min_distance_px", "strict", "window_share", "observation", "max_zooms")
    WINDOW_MODEL_PX_FIELD_NUMBER: _ClassVar[int]
    SHOWN_PX_FIELD_NUMBER: _ClassVar[int]
    BORDER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DOT_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    ON_INVALID_FIELD_NUMBER: _ClassVar[int]
    MAX_INVALID_TURNS_FIELD_NUMBER: _ClassVar[int]
    MIN_DISTANCE_PX_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SHARE_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    MAX_ZOOMS_FIELD_NUMBER: _ClassVar[int]
    window_model_px: int
    shown_px: int
    border: Border
    source: CropSource
    dot: bool
    max_turns: int
    on_invalid: OnInvalid
    max_invalid_turns: int
    min_distance_px: float
    strict: bool
    window_share: float
    observation: Spelling
    max_zooms: int
    def __init__(self, window_model_px: _Optional[int] = ..., shown_px: _Optional[int] = ..., border: _Optional[_Union[Border, str]] = ..., source: _Optional[_Union[CropSource, str]] = ..., dot: _Optional[bool] = ..., max_turns: _Optional[int] = ..., on_invalid: _Optional[_Union[OnInvalid, str]] = ..., max_invalid_turns: _Optional[int] = ..., min_distance_px: _Optional[float] = ..., strict: _Optional[bool] = ..., window_share: _Optional[float] = ..., observation: _Optional[_Union[Spelling, str]] = ..., max_zooms: _Optional[int] = ...) -> None: ...

class EpisodeState(_message.Message):
    __slots__ = ("image_sha256", "original_size", "mode", "config", "resize", "turns", "invalid_turns", "zoomed", "over")
    IMAGE_SHA256_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    TURNS_FIELD_NUMBER: _ClassVar[int]
    INVALID_TURNS_FIELD_NUMBER: _ClassVar[int]
    ZOOMED_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    image_sha256: str
    original_size: _image_pb2.Size
    mode: str
    config: ZoomConfig
    resize: _geometry_pb2.ResizeRule
    turns: int
    invalid_turns: int
    zoomed: _containers.RepeatedCompositeFieldContainer[_geometry_pb2.Point]
    over: bool
    def __init__(self, image_sha256: _Optional[str] = ..., original_size: _Optional[_Union[_image_pb2.Size, _Mapping]] = ..., mode: _Optional[str] = ..., config: _Optional[_Union[ZoomConfig, _Mapping]] = ..., resize: _Optional[_Union[_geometry_pb2.ResizeRule, _Mapping]] = ..., turns: _Optional[int] = ..., invalid_turns: _Optional[int] = ..., zoomed: _Optional[_Iterable[_Union[_geometry_pb2.Point, _Mapping]]] = ..., over: _Optional[bool] = ...) -> None: ...
