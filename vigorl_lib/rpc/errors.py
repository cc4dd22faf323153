"""The one table between our errors and gRPC statuses, used by every server and every client.

A server answers a `VigorlError` with the code that the table gives its reason (or else its category),
and with `ErrorInfo{reason, domain, metadata}`; the domain is `<category>.vigorl.dev`. A client makes
the same class with the same reason out of it. What a server did not raise on purpose becomes
INTERNAL / UNEXPECTED with an error id; the traceback goes to the server's log and nowhere else.
docs/errors.md lists the pairs (domain, reason), which are API.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from datetime import timedelta

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode

from vigorl_lib.errors import (
    ConfigError,
    CorruptObject,
    DataError,
    EpisodeError,
    InternalError,
    ObjectNotFound,
    PolicyError,
    RemoteError,
    RewardError,
    StorageError,
    VigorlError,
)
from vigorl_lib.rpc.gen.vigorl.common.v1 import error_pb2

DOMAIN_SUFFIX = ".vigorl.dev"
DETAILS_KEY = "grpc-status-details-bin"
"""Trailing metadata in which gRPC carries `google.rpc.Status`."""
RETRY_AFTER_S = 0.5
"""The wait that a full or draining server recommends."""

_INFRASTRUCTURE_KEY = "infrastructure"
_log = logging.getLogger("vigorl.rpc")

REASONS: dict[str, StatusCode] = {
    "ADMISSION_LIMIT": StatusCode.RESOURCE_EXHAUSTED,
    "COMMIT_CONFLICT": StatusCode.ALREADY_EXISTS,
    "CONTEXT_OVERFLOW": StatusCode.INVALID_ARGUMENT,
    "DATASET_UNKNOWN": StatusCode.NOT_FOUND,
    "DEADLINE_TOO_SHORT": StatusCode.DEADLINE_EXCEEDED,
    "ENGINE_CLOSED": StatusCode.UNAVAILABLE,
    "ENGINE_FAILED": StatusCode.UNAVAILABLE,
    "GENERATION_ABORTED": StatusCode.ABORTED,
    "IMAGE_NOT_CACHED": StatusCode.FAILED_PRECONDITION,
    "IMAGE_URI_FORBIDDEN": StatusCode.PERMISSION_DENIED,
    "ENDPOINT_DENIED": StatusCode.FAILED_PRECONDITION,
    "ENDPOINT_FAILED": StatusCode.UNAVAILABLE,
    "ENDPOINT_MODEL_UNKNOWN": StatusCode.NOT_FOUND,
    "ENDPOINT_REFUSED": StatusCode.INVALID_ARGUMENT,
    "GENERATION_FAILED": StatusCode.INTERNAL,
    "GENERATION_REFUSED": StatusCode.INVALID_ARGUMENT,
    "KEY_CONFLICT": StatusCode.ALREADY_EXISTS,
    "LOADING": StatusCode.UNAVAILABLE,
    "NOT_IMPLEMENTED": StatusCode.UNIMPLEMENTED,
    "NOT_SUPPORTED": StatusCode.UNIMPLEMENTED,
    "NOT_TRAINABLE": StatusCode.PERMISSION_DENIED,
    "OVERLOADED": StatusCode.RESOURCE_EXHAUSTED,
    "PREEMPTED": StatusCode.UNAVAILABLE,
    "POLICY_TOO_OLD": StatusCode.FAILED_PRECONDITION,
    "POLICY_UNKNOWN": StatusCode.NOT_FOUND,
    "PREFILL_UNSUPPORTED": StatusCode.UNIMPLEMENTED,
    "PROMPT_INVALID": StatusCode.INVALID_ARGUMENT,
    "SAMPLING_INVALID": StatusCode.INVALID_ARGUMENT,
    "SCENE_UNKNOWN": StatusCode.NOT_FOUND,
    "SPLIT_UNKNOWN": StatusCode.NOT_FOUND,
    "STATE_INVALID": StatusCode.INVALID_ARGUMENT,
    "STORAGE_ACCESS_DENIED": StatusCode.PERMISSION_DENIED,
    "TOKEN_INVALID": StatusCode.UNAUTHENTICATED,
    "TOO_MANY_IMAGES": StatusCode.INVALID_ARGUMENT,
    "TRANSFER_FAILED": StatusCode.ABORTED,
    "UPDATE_FAILED": StatusCode.ABORTED,
    "VERSION_UNKNOWN": StatusCode.FAILED_PRECONDITION,
    "WEIGHTS_OLDER": StatusCode.ABORTED,
    "WRONG_RUN": StatusCode.PERMISSION_DENIED,
}
"""Code by reason; a reason that is not here has the code of its class."""

CLASSES: dict[type[VigorlError], StatusCode] = {
    ObjectNotFound: StatusCode.NOT_FOUND,
    CorruptObject: StatusCode.DATA_LOSS,
    StorageError: StatusCode.UNAVAILABLE,
    ConfigError: StatusCode.INVALID_ARGUMENT,
    DataError: StatusCode.INVALID_ARGUMENT,
    PolicyError: StatusCode.FAILED_PRECONDITION,
    EpisodeError: StatusCode.FAILED_PRECONDITION,
    RewardError: StatusCode.FAILED_PRECONDITION,
    RemoteError: StatusCode.UNAVAILABLE,
    InternalError: StatusCode.INTERNAL,
}
"""Code by class, the most special class first."""

_RETRY_HELPS = frozenset({StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE})
_SOFT = frozenset({StatusCode.FAILED_PRECONDITION, StatusCode.INTERNAL})
_INFRASTRUCTURE_CODES = _RETRY_HELPS | {StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED, StatusCode.ABORTED}
_BY_CATEGORY = {cls.category: cls for cls in CLASSES if cls not in (ObjectNotFound, CorruptObject, RemoteError)}


def code_of(error: VigorlError) -> StatusCode:
    """The status code of an error raised on purpose."""
    if error.reason in REASONS:
        return REASONS[error.reason]
    code = next((code for cls, code in CLASSES.items() if isinstance(error, cls)), StatusCode.INTERNAL)
    # Clients try UNAVAILABLE again: it is for faults of the surroundings, which may go away, and for no other.
    if error.infrastructure:
        return StatusCode.UNAVAILABLE if code in _SOFT else code
    return StatusCode.FAILED_PRECONDITION if code is StatusCode.UNAVAILABLE else code


def told(error: VigorlError) -> VigorlError:
    """The error that a client is told: of one that only says where another one crossed, that other one."""
    while not isinstance(error, tuple(CLASSES)) and isinstance(error.__cause__, VigorlError):
        error = error.__cause__
    return error


def to_status(error: VigorlError) -> Status:
    """The whole answer to a failed call."""
    code = code_of(error)
    status = Status(code=code.value[0], message=error.message)
    metadata = {**error.metadata, _INFRASTRUCTURE_KEY: "true" if error.infrastructure else "false"}
    details = [ErrorInfo(reason=error.reason, domain=error.category + DOMAIN_SUFFIX, metadata=metadata)]
    for detail in (*details, *([_retry_info()] if code in _RETRY_HELPS else [])):
        packed = AnyProto()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _retry_info() -> RetryInfo:
    return RetryInfo(retry_delay=timedelta(seconds=RETRY_AFTER_S))


def unexpected(error: BaseException) -> InternalError:
    """What a client is told of an error that nobody raised on purpose; the log has the rest under the same id."""
    error_id = uuid.uuid4().hex[:12]
    _log.error("unexpected error %s", error_id, exc_info=error, extra={"error_id": error_id})
    return InternalError(
        f"the server failed unexpectedly; its log has the details under {error_id}",
        reason="UNEXPECTED",
        error_id=error_id,
    )


def from_call(error: grpc.aio.AioRpcError, target: str) -> VigorlError:
    """The error behind a failed call: the class that the server raised, or RemoteError where it named none."""
    packed = next((value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY), None)
    status = _parse(packed) if isinstance(packed, bytes) else None
    info = ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info):
            return _rebuilt(info, status.message if status is not None else "", error.code())
    return RemoteError(
        f"{target}: {error.code().name}: {error.details() or 'no details'}",
        reason=error.code().name,
        infrastructure=error.code() in _INFRASTRUCTURE_CODES,
        target=target,
    )


def _parse(packed: bytes) -> Status | None:
    try:
        return Status.FromString(packed)
    except DecodeError:
        return None


def _rebuilt(info: ErrorInfo, message: str, code: StatusCode) -> VigorlError:
    metadata = dict(info.metadata)
    infrastructure = metadata.pop(_INFRASTRUCTURE_KEY, "false") == "true"
    category = info.domain.removesuffix(DOMAIN_SUFFIX)
    cls = _BY_CATEGORY.get(category, RemoteError)
    if cls is StorageError:
        cls = {StatusCode.NOT_FOUND: ObjectNotFound, StatusCode.DATA_LOSS: CorruptObject}.get(code, StorageError)
    return cls(message, reason=info.reason, infrastructure=infrastructure, **metadata)


def item_error_to_proto(error: VigorlError) -> error_pb2.ItemError:
    """The failure of one item of a batch."""
    return error_pb2.ItemError(
        category=error.category,
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
        infrastructure=error.infrastructure,
    )


def item_error_from_proto(proto: error_pb2.ItemError) -> VigorlError:
    cls = _BY_CATEGORY.get(proto.category, RemoteError)
    return cls(proto.message, reason=proto.reason, infrastructure=proto.infrastructure, **dict(proto.metadata))


def trailing_metadata(error: VigorlError) -> Sequence[tuple[str, bytes]]:
    return ((DETAILS_KEY, to_status(error).SerializeToString()),)
