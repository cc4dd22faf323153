"""Markers are written last, and what they vouch for is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.errors import CorruptObject, ObjectNotFound, StorageError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.commit import MARKER, commit, committed, discard, fetch, verify

STEP = "runs/a/checkpoints/step-000001"


def write_checkpoint(storage: Storage) -> None:
    storage.write(f"{STEP}/model.bin", b"weights")
    storage.write(f"{STEP}/deep/optimizer.bin", b"moments")


def test_a_folder_counts_once_it_is_committed(storage: Storage) -> None:
    write_checkpoint(storage)
    assert committed(storage, STEP) is None
    with pytest.raises(ObjectNotFound) as caught:
        verify(storage, STEP)
    assert caught.value.reason == "NOT_COMMITTED"
    commit(storage, STEP, {"step": 1})
    assert committed(storage, STEP) == {"step": 1} == verify(storage, STEP)


def test_committing_the_same_again_is_quiet_and_other_content_is_refused(storage: Storage) -> None:
    write_checkpoint(storage)
    commit(storage, STEP, {"step": 1})
    commit(storage, STEP, {"step": 1})
    storage.write(f"{STEP}/model.bin", b"others")
    with pytest.raises(StorageError) as caught:
        commit(storage, STEP, {"step": 1})
    assert caught.value.reason == "COMMIT_CONFLICT"


@pytest.mark.parametrize("damage", [b"weighty", b"weight", b"weights!"])
def test_changed_bytes_are_found_on_read(storage: Storage, tmp_path: Path, damage: bytes) -> None:
    write_checkpoint(storage)
    commit(storage, STEP, {})
    storage.write(f"{STEP}/model.bin", damage)
    for check in (lambda: verify(storage, STEP), lambda: fetch(storage, STEP, tmp_path / "copy")):
        with pytest.raises(CorruptObject, match=r"model\.bin"):
            check()


def test_a_missing_object_is_found_on_read(storage: Storage, tmp_path: Path) -> None:
    write_checkpoint(storage)
    commit(storage, STEP, {})
    storage.delete(f"{STEP}/deep/optimizer.bin")
    for check in (lambda: verify(storage, STEP), lambda: fetch(storage, STEP, tmp_path / "copy")):
        with pytest.raises(ObjectNotFound, match=r"optimizer\.bin"):
            check()


def test_fetch_brings_all_files(storage: Storage, tmp_path: Path) -> None:
    write_checkpoint(storage)
    commit(storage, STEP, {"step": 1})
    assert fetch(storage, STEP, tmp_path / "copy") == {"step": 1}
    assert (tmp_path / "copy" / "deep" / "optimizer.bin").read_bytes() == b"moments"


def test_discard_leaves_nothing_and_takes_the_marker_first(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(storage)
    commit(storage, STEP, {})
    deleted: list[str] = []
    really = storage.delete
    monkeypatch.setattr(storage, "delete", lambda key: (deleted.append(key), really(key)))
    discard(storage, STEP)
    assert deleted[0] == f"{STEP}/{MARKER}"
    assert storage.list() == []


def test_an_empty_folder_and_a_damaged_marker_are_refused(storage: Storage) -> None:
    with pytest.raises(StorageError) as empty:
        commit(storage, STEP, {})
    assert empty.value.reason == "COMMIT_EMPTY"
    storage.write(f"{STEP}/{MARKER}", b"{")
    with pytest.raises(CorruptObject) as damaged:
        verify(storage, STEP)
    assert damaged.value.reason == "MANIFEST_UNREADABLE"
