"""Growing records: what survives a kill, a torn tail, and a second writer."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.segments import SegmentWriter, read_segments

PREFIX = "runs/a/search/00000"


def numbers(storage: Storage) -> list[int]:
    return [record["n"] for record in read_segments(storage, PREFIX)]


def test_records_come_back_in_order_from_numbered_segments(storage: Storage) -> None:
    with SegmentWriter(storage, PREFIX, max_records=3) as writer:
        for n in range(8):
            writer.append({"n": n})
    assert storage.list(f"{PREFIX}/") == [f"{PREFIX}/{number:06d}.jsonl.zst" for number in range(3)]
    assert numbers(storage) == list(range(8))


def test_a_later_writer_goes_on_behind_the_earlier(storage: Storage) -> None:
    for n in range(3):
        with SegmentWriter(storage, PREFIX) as writer:
            writer.append({"n": n})
    assert numbers(storage) == [0, 1, 2]


def test_a_segment_closes_when_it_is_old(storage: Storage) -> None:
    writer = SegmentWriter(storage, PREFIX, max_seconds=0.0)
    writer.append({"n": 0})
    assert storage.list(f"{PREFIX}/") == [f"{PREFIX}/000000.jsonl.zst"]


def test_flush_makes_records_readable_by_others(storage: Storage) -> None:
    writer = SegmentWriter(storage, PREFIX)
    writer.append({"n": 0})
    writer.flush()
    assert numbers(storage) == [0]
    writer.append({"n": 1})
    writer.close()
    assert numbers(storage) == [0, 1]


def test_writers_that_share_a_prefix_lose_nothing(storage: Storage) -> None:
    """Two pods with the same shard once overwrote each other's segment 0."""
    writers, each = 4, 10
    start = threading.Barrier(writers)

    def write(number: int) -> None:
        start.wait()
        with SegmentWriter(storage, PREFIX, max_records=3) as writer:
            for n in range(each):
                writer.append({"n": number * each + n})

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    assert sorted(numbers(storage)) == list(range(writers * each))


def test_a_value_that_json_cannot_say_is_refused(storage: Storage) -> None:
    with SegmentWriter(storage, PREFIX) as writer:
        for bad in (float("nan"), b"bytes"):
            with pytest.raises(DataError) as caught:
                writer.append({"n": bad})
            assert caught.value.reason == "RECORD_INVALID"
        writer.append({"n": 1})
    assert numbers(storage) == [1]


def test_a_damaged_segment_is_told(storage: Storage) -> None:
    with SegmentWriter(storage, PREFIX) as writer:
        writer.append({"n": 0, "text": "x" * 1000})
    key = f"{PREFIX}/000000.jsonl.zst"
    data = storage.read(key)
    for damaged in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b"", b"not zstd"):
        storage.write(key, damaged)
        with pytest.raises(CorruptObject):
            numbers(storage)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=8),
    cut=st.integers(min_value=0, max_value=400),
)
def test_cut_anywhere_all_records_but_the_last_touched_survive(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    storage = FolderStorage(tmp_path_factory.mktemp("torn"))
    writer = SegmentWriter(storage, PREFIX)
    ends = []
    path = storage.local_path(f"{PREFIX}/000000.jsonl")
    for text in texts:
        writer.append({"text": text})
        ends.append(path.stat().st_size)
    data = path.read_bytes()[:cut]
    orphan = FolderStorage(tmp_path_factory.mktemp("orphan"))
    orphan.write(f"{PREFIX}/000000.jsonl", data)
    whole = [{"text": text} for text, end in zip(texts, ends, strict=True) if end <= cut]
    assert list(read_segments(orphan, PREFIX)) == whole
    with SegmentWriter(orphan, PREFIX) as later:
        later.append({"text": "later"})
    assert list(read_segments(orphan, PREFIX)) == [*whole, {"text": "later"}]
    assert not any(key.endswith(".jsonl") for key in orphan.list())


KILLED = """
import os, signal, sys
from pathlib import Path
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.segments import SegmentWriter
writer = SegmentWriter(FolderStorage(Path(sys.argv[1])), sys.argv[2], max_records=4)
for n in range(10):
    writer.append({"n": n})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_with_9_loses_no_record_that_it_had_appended(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), PREFIX], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    storage = FolderStorage(tmp_path)
    assert numbers(storage) == list(range(10))
    with SegmentWriter(storage, PREFIX) as writer:
        writer.append({"n": 10})
    assert numbers(storage) == list(range(11))


def test_the_open_segment_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    with SegmentWriter(storage, PREFIX) as living:
        living.append({"n": 0})
        with SegmentWriter(storage, PREFIX) as second:
            second.append({"n": 1})
        assert storage.exists(f"{PREFIX}/000000.jsonl")
        living.append({"n": 2})
    assert sorted(numbers(storage)) == [0, 1, 2]


def test_in_a_bucket_only_the_open_segment_is_lost(s3_storage: Any) -> None:
    writer = SegmentWriter(s3_storage, PREFIX, max_records=4)
    for n in range(10):
        writer.append({"n": n})
    del writer
    assert numbers(s3_storage) == list(range(8))
