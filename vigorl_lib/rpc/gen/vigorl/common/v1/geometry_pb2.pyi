from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_UNSPECIFIED: _ClassVar[Frame]
    FRAME_ORIGINAL: _ClassVar[Frame]
    FRAME_MODEL: _ClassVar[Frame]
    FRAME_NORMALIZED: _ClassVar[Frame]
FRAME_UNSPECIFIED: Frame
FRAME_ORIGINAL: Frame
FRAME_MODEL: Frame
FRAME_NORMALIZED: Frame

class Point(_message.Message):
    __slots__ = ("x", "y", "frame")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    frame: Frame
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., frame: _Optional[_Union[Frame, str]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1", "frame")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    x0: float
    y0: float
    x1: float
    y1: float
    frame: Frame
    def __init__(self, x0: _Optional[float] = ..., y0: _Optional[float] = ..., x1: _Optional[float] = ..., y1: _Optional[float] = ..., frame: _Optional[_Union[Frame, str]] = ...) -> None: ...

class Crop(_message.Message):
    __slots__ = ("window", "shown")
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    window: Box
    shown: _image_pb2.Size
    def __init__(self, window: _Optional[_Union[Box, _Mapping]] = ..., shown: _Optional[_Union[_image_pb2.Size, _Mapping]] = ...) -> None: ...

class ResizeRule(_message.Message):
    __slots__ = ("factor", "min_pixels", "max_pixels")
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    MIN_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_FIELD_NUMBER: _ClassVar[int]
    factor: int
    min_pixels: int
    max_pixels: int
    def __init__(self, factor: _Optional[int] = ..., min_pixels: _Optional[int] = ..., max_pixels: _Optional[int] = ...) -> None: ...
