from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2 as _conversation_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import geometry_pb2 as _geometry_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import turn_pb2 as _turn_pb2
from vigorl_lib.rpc.gen.vigorl.environment.v1 import zoom_pb2 as _zoom_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartEpisodeRequest(_message.Message):
    __slots__ = ("image", "mode", "config", "resize")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    mode: str
    config: _zoom_pb2.ZoomConfig
    resize: _geometry_pb2.ResizeRule
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., mode: _Optional[str] = ..., config: _Optional[_Union[_zoom_pb2.ZoomConfig, _Mapping]] = ..., resize: _Optional[_Union[_geometry_pb2.ResizeRule, _Mapping]] = ...) -> None: ...

class StartEpisodeResponse(_message.Message):
    __slots__ = ("state", "model_size")
    STATE_FIELD_NUMBER: _ClassVar[int]
    MODEL_SIZE_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    model_size: _image_pb2.Size
    def __init__(self, state: _Optional[bytes] = ..., model_size: _Optional[_Union[_image_pb2.Size, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("state", "policy_text", "image")
    STATE_FIELD_NUMBER: _ClassVar[int]
    POLICY_TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    policy_text: str
    image: _image_pb2.Image
    def __init__(self, state: _Optional[bytes] = ..., policy_text: _Optional[str] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("state", "turn", "observation", "stop_reason", "invalid", "detail", "crop", "crop_image")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    INVALID_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    CROP_IMAGE_FIELD_NUMBER: _ClassVar[int]
    state: bytes
    turn: _turn_pb2.Turn
    observation: _conversation_pb2.Message
    stop_reason: _turn_pb2.StopReason
    invalid: _turn_pb2.InvalidTurn
    detail: str
    crop: _geometry_pb2.Crop
    crop_image: _image_pb2.Image
    def __init__(self, state: _Optional[bytes] = ..., turn: _Optional[_Union[_turn_pb2.Turn, _Mapping]] = ..., observation: _Optional[_Union[_conversation_pb2.Message, _Mapping]] = ..., stop_reason: _Optional[_Union[_turn_pb2.StopReason, str]] = ..., invalid: _Optional[_Union[_turn_pb2.InvalidTurn, str]] = ..., detail: _Optional[str] = ..., crop: _Optional[_Union[_geometry_pb2.Crop, _Mapping]] = ..., crop_image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ...) -> None: ...

class CropImageRequest(_message.Message):
    __slots__ = ("image", "center", "config", "resize")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    CENTER_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    image: _image_pb2.Image
    center: _geometry_pb2.Point
    config: _zoom_pb2.ZoomConfig
    resize: _geometry_pb2.ResizeRule
    def __init__(self, image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ..., center: _Optional[_Union[_geometry_pb2.Point, _Mapping]] = ..., config: _Optional[_Union[_zoom_pb2.ZoomConfig, _Mapping]] = ..., resize: _Optional[_Union[_geometry_pb2.ResizeRule, _Mapping]] = ...) -> None: ...

class CropImageResponse(_message.Message):
    __slots__ = ("crop", "image")
    CROP_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    crop: _geometry_pb2.Crop
    image: _image_pb2.Image
    def __init__(self, crop: _Optional[_Union[_geometry_pb2.Crop, _Mapping]] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ...) -> None: ...
