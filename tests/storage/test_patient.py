"""An outage of storage is waited out; what is no outage is told at once, and so is one that does not end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vigorl_lib.errors import ObjectNotFound, StorageError
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.patient import PatientStorage
from vigorl_lib.storage.segments import SegmentWriter, read_segments

GONE = StorageError("gone", reason="STORAGE_UNAVAILABLE")


class Flaky(FolderStorage):
    """As a bucket: fails for the next `outage` calls; with `lost`, after it has done as told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.outage, self.lost = 0, False

    def local_path(self, key: str) -> Path:
        return None  # type: ignore[return-value]

    def _fails(self, call: Callable[[], Any]) -> Any:
        if not self.outage:
            return call()
        self.outage -= 1
        if self.lost:
            call()
        raise GONE

    def read(self, key: str) -> bytes:
        return bytes(self._fails(lambda: super(Flaky, self).read(key)))

    def write(self, key: str, data: bytes) -> None:
        self._fails(lambda: super(Flaky, self).write(key, data))

    def create(self, key: str, data: bytes) -> bool:
        return bool(self._fails(lambda: super(Flaky, self).create(key, data)))


@pytest.fixture
def flaky(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path)


def test_what_is_written_in_an_outage_is_there_after_it(flaky: Flaky) -> None:
    patient = PatientStorage(flaky)
    flaky.outage = 2
    patient.write("a", b"x")
    flaky.outage = 1
    assert patient.read("a") == b"x"


@pytest.mark.parametrize("lost", [False, True])
def test_a_claim_whose_answer_was_lost_is_a_claim_and_a_foreign_one_is_not(flaky: Flaky, lost: bool) -> None:
    patient = PatientStorage(flaky)
    flaky.outage, flaky.lost = 1, lost
    assert patient.create("mine", b"mine")
    assert flaky.create("theirs", b"theirs")
    flaky.outage = 1
    assert not patient.create("theirs", b"mine")


def test_records_of_a_segment_whose_answer_was_lost_are_there_once(flaky: Flaky) -> None:
    with SegmentWriter(PatientStorage(flaky), "records") as writer:
        writer.append({"step": 1})
        flaky.outage, flaky.lost = 1, True
        writer.flush()
        writer.append({"step": 2})
    assert [record["step"] for record in read_segments(open_storage(flaky.uri), "records")] == [1, 2]


def test_what_is_no_outage_is_told_at_once_and_an_outage_without_end_when_patience_ends(flaky: Flaky) -> None:
    with pytest.raises(ObjectNotFound):
        PatientStorage(flaky).read("nothing")
    flaky.outage = 1000
    with pytest.raises(StorageError) as caught:
        PatientStorage(flaky, patience_s=0.5).write("a", b"x")
    assert caught.value is GONE
