"""The error table: every error crosses the wire as itself, with the right code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata

from vigorl_lib.domain.trajectory import StopReason
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
from vigorl_lib.rollout.step import StepError
from vigorl_lib.rpc.errors import (
    REASONS,
    code_of,
    from_call,
    item_error_from_proto,
    item_error_to_proto,
    to_status,
    told,
    trailing_metadata,
    unexpected,
)

TABLE = [
    (DataError("m", reason="IMAGE_UNREADABLE", path="x.png"), StatusCode.INVALID_ARGUMENT),
    (ConfigError("m", reason="RECIPE_INVALID"), StatusCode.INVALID_ARGUMENT),
    (PolicyError("m", reason="CONTEXT_OVERFLOW"), StatusCode.INVALID_ARGUMENT),
    (PolicyError("m", reason="POLICY_TOO_OLD", version=3), StatusCode.FAILED_PRECONDITION),
    (PolicyError("m", reason="POLICY_UNKNOWN"), StatusCode.NOT_FOUND),
    (PolicyError("m", reason="NOT_TRAINABLE"), StatusCode.PERMISSION_DENIED),
    (PolicyError("m", reason="WRONG_RUN"), StatusCode.PERMISSION_DENIED),
    (PolicyError("m", reason="OVERLOADED", infrastructure=True), StatusCode.RESOURCE_EXHAUSTED),
    (PolicyError("m", reason="ENGINE_FAILED", infrastructure=True), StatusCode.UNAVAILABLE),
    (PolicyError("m", reason="WEIGHTS_OLDER"), StatusCode.ABORTED),
    (EpisodeError("m", reason="STATE_INVALID"), StatusCode.INVALID_ARGUMENT),
    (EpisodeError("m", reason="IMAGE_NOT_CACHED"), StatusCode.FAILED_PRECONDITION),
    (EpisodeError("m", reason="IMAGE_URI_FORBIDDEN"), StatusCode.PERMISSION_DENIED),
    (RewardError("m", reason="JUDGE_FAILED", infrastructure=True), StatusCode.UNAVAILABLE),
    (RewardError("m", reason="TRUTH_INCOMPLETE"), StatusCode.FAILED_PRECONDITION),
    (StorageError("m", reason="S3_UNREACHABLE"), StatusCode.UNAVAILABLE),
    (StorageError("m", reason="KEY_INVALID", infrastructure=False), StatusCode.FAILED_PRECONDITION),
    (StorageError("m", reason="KEY_CONFLICT", infrastructure=False), StatusCode.ALREADY_EXISTS),
    (ObjectNotFound("m", reason="OBJECT_NOT_FOUND", key="a/b"), StatusCode.NOT_FOUND),
    (CorruptObject("m", reason="DIGEST_MISMATCH"), StatusCode.DATA_LOSS),
    (RemoteError("m", reason="NOT_IMPLEMENTED"), StatusCode.UNIMPLEMENTED),
    (InternalError("m", reason="UNEXPECTED"), StatusCode.INTERNAL),
]


def crossed(error: VigorlError) -> VigorlError:
    metadata = Metadata(*trailing_metadata(error))
    return from_call(AioRpcError(code_of(error), Metadata(), metadata, error.message), "127.0.0.1:1")


@pytest.mark.parametrize(("error", "code"), TABLE, ids=[f"{e.category}-{e.reason}" for e, _ in TABLE])
def test_an_error_crosses_as_itself(error: VigorlError, code: StatusCode) -> None:
    assert code_of(error) is code
    back = crossed(error)
    assert type(back) is type(error)
    assert (back.message, back.reason, back.metadata, back.infrastructure) == (
        error.message,
        error.reason,
        error.metadata,
        error.infrastructure,
    )


def test_every_reason_of_the_table_is_a_name_that_may_be_sent() -> None:
    assert all(reason.replace("_", "").isalpha() and reason.isupper() and len(reason) <= 63 for reason in REASONS)


def test_the_documentation_lists_every_reason_and_code_of_the_table() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "errors.md").read_text(encoding="utf-8")
    for reason, code in REASONS.items():
        assert re.search(rf"\| `{reason}` \| {code.name} \|", documented), reason


def test_a_wait_is_recommended_where_it_helps() -> None:
    info = RetryInfo()
    busy = to_status(PolicyError("m", reason="OVERLOADED", infrastructure=True))
    assert any(detail.Unpack(info) for detail in busy.details)
    assert info.retry_delay.ToTimedelta().total_seconds() == pytest.approx(0.5)
    assert not any(detail.Unpack(info) for detail in to_status(DataError("m", reason="X")).details)


def test_what_nobody_raised_on_purpose_tells_an_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    told_error = unexpected(KeyError("secret path"))
    assert "secret" not in told_error.message
    assert told_error.metadata["error_id"] in told_error.message
    assert "secret path" in caplog.text
    assert told_error.metadata["error_id"] in caplog.text


def test_a_category_that_this_client_has_no_class_for_is_remote() -> None:
    class OddError(VigorlError):
        category = "odd"

    back = crossed(OddError("m", reason="ODD"))
    assert type(back) is RemoteError
    assert back.reason == "ODD"


def test_an_error_at_a_boundary_is_told_as_its_cause() -> None:
    cause = DataError("not an image", reason="IMAGE_UNREADABLE")
    step = StepError(StopReason.ENVIRONMENT_ERROR, cause)
    step.__cause__ = cause
    assert told(step) is cause
    assert told(cause) is cause


@pytest.mark.parametrize(
    ("code", "infrastructure"),
    [(StatusCode.UNAVAILABLE, True), (StatusCode.DEADLINE_EXCEEDED, True), (StatusCode.UNKNOWN, False)],
)
def test_a_failure_without_details_is_remote_and_knows_whether_it_may_go_away(
    code: StatusCode, infrastructure: bool
) -> None:
    back = from_call(AioRpcError(code, Metadata(), Metadata(), "connection refused"), "host:1")
    assert type(back) is RemoteError
    assert back.infrastructure is infrastructure
    assert "host:1" in back.message
    assert "connection refused" in back.message


@pytest.mark.parametrize("details", [b"\xff\xff", b""])
def test_details_that_are_no_status_are_ignored(details: bytes) -> None:
    metadata = Metadata(("grpc-status-details-bin", details))
    back = from_call(AioRpcError(StatusCode.INTERNAL, Metadata(), metadata, "x"), "host:1")
    assert back.reason == "INTERNAL"


def test_an_items_error_crosses_as_itself() -> None:
    error = RewardError("m", reason="TRUTH_INCOMPLETE", example_id="a")
    back = item_error_from_proto(item_error_to_proto(error))
    assert (type(back), back.message, back.reason, back.metadata) == (RewardError, "m", error.reason, error.metadata)
