from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_PROMPT: _ClassVar[Origin]
    ORIGIN_POLICY: _ClassVar[Origin]
    ORIGIN_OBSERVATION: _ClassVar[Origin]
    ORIGIN_FORCED: _ClassVar[Origin]
    ORIGIN_DEMONSTRATION: _ClassVar[Origin]
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
ORIGIN_UNSPECIFIED: Origin
ORIGIN_PROMPT: Origin
ORIGIN_POLICY: Origin
ORIGIN_OBSERVATION: Origin
ORIGIN_FORCED: Origin
ORIGIN_DEMONSTRATION: Origin

class Part(_message.Message):
    __slots__ = ("text", "image")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: _image_pb2.Image
    def __init__(self, text: _Optional[str] = ..., image: _Optional[_Union[_image_pb2.Image, _Mapping]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "parts")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    role: Role
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ...) -> None: ...

class ImageSpan(_message.Message):
    __slots__ = ("start", "length", "image_index")
    START_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_INDEX_FIELD_NUMBER: _ClassVar[int]
    start: int
    length: int
    image_index: int
    def __init__(self, start: _Optional[int] = ..., length: _Optional[int] = ..., image_index: _Optional[int] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("ids", "image_spans")
    IDS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_SPANS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    image_spans: _containers.RepeatedCompositeFieldContainer[ImageSpan]
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., image_spans: _Optional[_Iterable[_Union[ImageSpan, _Mapping]]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("origin", "messages", "tokens", "logprobs", "policy_version", "trained")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    origin: Origin
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    tokens: Tokens
    logprobs: _containers.RepeatedScalarFieldContainer[float]
    policy_version: int
    trained: bool
    def __init__(self, origin: _Optional[_Union[Origin, str]] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., tokens: _Optional[_Union[Tokens, _Mapping]] = ..., logprobs: _Optional[_Iterable[float]] = ..., policy_version: _Optional[int] = ..., trained: _Optional[bool] = ...) -> None: ...
