from vigorl_lib.rpc.gen.vigorl.common.v1 import geometry_pb2 as _geometry_pb2
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2 as _image_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AnswerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_KIND_UNSPECIFIED: _ClassVar[AnswerKind]
    ANSWER_KIND_STRING: _ClassVar[AnswerKind]
    ANSWER_KIND_CHOICE: _ClassVar[AnswerKind]
    ANSWER_KIND_POINT: _ClassVar[AnswerKind]
    ANSWER_KIND_ACTION: _ClassVar[AnswerKind]
    ANSWER_KIND_FREE: _ClassVar[AnswerKind]
ANSWER_KIND_UNSPECIFIED: AnswerKind
ANSWER_KIND_STRING: AnswerKind
ANSWER_KIND_CHOICE: AnswerKind
ANSWER_KIND_POINT: AnswerKind
ANSWER_KIND_ACTION: AnswerKind
ANSWER_KIND_FREE: AnswerKind

class GroundTruth(_message.Message):
    __slots__ = ("answer", "kind", "choices", "box", "evidence", "distractors", "region", "accepted")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    DISTRACTORS_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    answer: str
    kind: AnswerKind
    choices: _containers.RepeatedScalarFieldContainer[str]
    box: _geometry_pb2.Box
    evidence: _containers.RepeatedCompositeFieldContainer[_geometry_pb2.Box]
    distractors: _containers.RepeatedCompositeFieldContainer[_geometry_pb2.Box]
    region: _containers.RepeatedCompositeFieldContainer[_geometry_pb2.Point]
    accepted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, answer: _Optional[str] = ..., kind: _Optional[_Union[AnswerKind, str]] = ..., choices: _Optional[_Iterable[str]] = ..., box: _Optional[_Union[_geometry_pb2.Box, _Mapping]] = ..., evidence: _Optional[_Iterable[_Union[_geometry_pb2.Box, _Mapping]]] = ..., distractors: _Optional[_Iterable[_Union[_geometry_pb2.Box, _Mapping]]] = ..., region: _Optional[_Iterable[_Union[_geometry_pb2.Point, _Mapping]]] = ..., accepted: _Optional[_Iterable[str]] = ...) -> None: ...

class Example(_message.Message):
    __slots__ = ("example_id", "question", "images", "truth", "task", "tags")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    EXAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    example_id: str
    question: str
    images: _containers.RepeatedCompositeFieldContainer[_image_pb2.Image]
    truth: GroundTruth
    task: str
    tags: _containers.ScalarMap[str, str]
    def __init__(self, example_id: _Optional[str] = ..., question: _Optional[str] = ..., images: _Optional[_Iterable[_Union[_image_pb2.Image, _Mapping]]] = ..., truth: _Optional[_Union[GroundTruth, _Mapping]] = ..., task: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ...) -> None: ...
