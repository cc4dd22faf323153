"""Growing records as numbered, immutable segments `<seq>.jsonl.zst` under one prefix.

In a folder the segment that is being written is an open `<seq>.jsonl` to which each record is appended in
one write, so a killed process loses at most the record it was writing; whoever comes next finds the
orphan by its lock, repairs its tail and closes it. In a bucket records are held until the segment closes,
so a killed process loses at most its open segment. Numbers are claimed by `create`, so writers that share
a prefix never overwrite each other. What a record means is the caller's business; ids make a repeated
record recognisable.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from errno import ENOSPC
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Protocol

import zstandard

from vigorl_lib.errors import CorruptObject, DataError, ObjectNotFound
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import folder_errors

CLOSED, OPEN = ".jsonl.zst", ".jsonl"
_LEVEL = 3
# A record is made on the spot and holds no circle; looking for one is a sixth of the work.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False)


class SegmentWriter:
    """Appends records under `prefix`. Safe to share among threads; close it, or use it in a `with` block.

    A segment closes once it holds `max_records`, and at the first `append` or `flush` that finds it older
    than `max_seconds`.
    """

    def __init__(self, storage: Storage, prefix: str, max_records: int = 2000, max_seconds: float = 60.0) -> None:
        self._storage, self._prefix = storage, prefix
        self._max_records, self._max_seconds = max_records, max_seconds
        folder = storage.local_path(prefix)
        if folder is not None:
            _adopt_orphans(storage, prefix, folder)
        self._open: _OpenSegment = _Buffer() if folder is None else _OpenFile(folder)
        self._lock = Lock()
        self._next = 0
        self._since = time.monotonic()

    def append(self, record: dict[str, Any]) -> None:
        """Add one record. Raises DataError (RECORD_INVALID) for what JSON cannot say, such as NaN."""
        self.append_line(json_line(record, self._prefix))

    def append_line(self, text: str) -> None:
        """Add one record that `json_line` wrote."""
        with self._lock:
            if self._open.count == 0:
                self._next = self._open.begin(max(self._next, _next_number(self._storage, self._prefix)))
                self._since = time.monotonic()
            self._open.add(text.encode() + b"\n")
            if self._open.count >= self._max_records or self._due():
                self._close_segment()

    def flush(self) -> None:
        """Make what was appended outlive this process: closes the segment in a bucket; a folder has it already."""
        with self._lock:
            if self._open.count and (self._open.volatile or self._due()):
                self._close_segment()

    def close(self) -> None:
        with self._lock:
            if self._open.count:
                self._close_segment()

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _due(self) -> bool:
        return time.monotonic() - self._since >= self._max_seconds

    def _close_segment(self) -> None:
        self._next = _write_closed(self._storage, self._prefix, self._next, self._open.content()) + 1
        self._open.end()


def json_line(record: dict[str, Any], where: str) -> str:
    """A record as it stands in a segment. Raises DataError (RECORD_INVALID) for what JSON cannot say, such as NaN."""
    try:
        return _ENCODER.encode(record)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a record is no JSON: {error}", reason="RECORD_INVALID") from error


def read_segments(storage: Storage, prefix: str) -> Iterator[dict[str, Any]]:
    """All records under a prefix in the order of their segments; an unfinished last line of an open one is left out.

    Raises CorruptObject for a damaged closed segment, DataError (RECORD_INVALID) for a line that is no object.
    """
    names = {_number(key): key for key in sorted(segment_keys(storage, prefix))}
    # Of an orphan that was closed but not yet removed, sorting leaves the closed one.
    for number in sorted(names):
        key, data = _read(storage, prefix, number, names[number])
        for position, line in enumerate(data.splitlines(), start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise DataError(f"{key}:{position}: expected a JSON object", reason="RECORD_INVALID", key=key)
            yield record


class _OpenSegment(Protocol):
    """Where the records of the segment in progress are."""

    count: int
    volatile: bool

    def begin(self, number: int) -> int: ...
    def add(self, line: bytes) -> None: ...
    def content(self) -> bytes: ...
    def end(self) -> None: ...


class _Buffer:
    """In memory: the number is claimed only when the segment closes."""

    volatile = True

    def __init__(self) -> None:
        self.count = 0
        self._lines: list[bytes] = []

    def begin(self, number: int) -> int:
        return number

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self.count += 1

    def content(self) -> bytes:
        return b"".join(self._lines)

    def end(self) -> None:
        self._lines, self.count = [], 0


class _OpenFile:
    """In `<seq>.jsonl`, held by a lock that dies with the process."""

    volatile = False

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._folder = folder
        self._file: FileIO | None = None
        self._path = folder
        self._length = 0

    def begin(self, number: int) -> int:
        with folder_errors(str(self._folder), f"{number:06d}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            while not self._claim(self._folder / f"{number:06d}{OPEN}"):
                number += 1
        return number

    def add(self, line: bytes) -> None:
        assert self._file is not None
        with folder_errors(str(self._folder), self._path.name):
            written = self._file.write(line)
            if written != len(line):
                # A full disk takes part of a line; what follows must not be glued to it.
                self._file.truncate(self._length)
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        self._length += len(line)
        self.count += 1

    def content(self) -> bytes:
        return self._path.read_bytes()

    def end(self) -> None:
        assert self._file is not None
        self._path.unlink()
        self._file.close()
        self._file, self.count = None, 0

    def _claim(self, path: Path) -> bool:
        try:
            # Unbuffered: one write a record, in the kernel's hands before `append` returns.
            file = FileIO(path, "xb")
        except FileExistsError:
            return False
        # Another process may take the new file for an orphan before it is locked; or the number belongs
        # to a segment that was closed since we looked.
        ours = _locked(file, path)
        if not ours or path.with_name(f"{path.name}.zst").exists():
            if ours:
                path.unlink()
            file.close()
            return False
        self._file, self._path, self._length = file, path, 0
        return True


def _adopt_orphans(storage: Storage, prefix: str, folder: Path) -> None:
    """Close the open segments of processes that are gone, without the record that was cut off."""
    for path in sorted(folder.glob(f"*{OPEN}")):
        try:
            file = FileIO(path, "rb")
        except FileNotFoundError:
            continue
        with file:
            if not _locked(file, path):
                continue
            whole = _whole_lines(file.read())
            if whole:
                storage.create(f"{prefix}/{path.name}.zst", _compressed(whole))
            path.unlink(missing_ok=True)


def _locked(file: FileIO, path: Path) -> bool:
    """Take the file's lock unless a living process has it; False too if `path` is another file by now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _write_closed(storage: Storage, prefix: str, number: int, data: bytes) -> int:
    """Write a closed segment under the first free number from `number` on."""
    compressed = _compressed(data)
    while not storage.create(f"{prefix}/{number:06d}{CLOSED}", compressed):
        number += 1
    return number


def _next_number(storage: Storage, prefix: str) -> int:
    return max((_number(key) for key in segment_keys(storage, prefix)), default=-1) + 1


def segment_keys(storage: Storage, prefix: str) -> list[str]:
    """Sorted keys of the segments under a prefix, closed (`.jsonl.zst`) and open (`.jsonl`) ones."""
    lead = f"{prefix}/"
    keys = [key for key in storage.list(lead) if key.endswith((CLOSED, OPEN))]
    return [key for key in keys if key.removeprefix(lead).split(".")[0].isdigit()]


def _number(key: str) -> int:
    return int(os.path.basename(key).split(".")[0])


def _read(storage: Storage, prefix: str, number: int, key: str) -> tuple[str, bytes]:
    if key.endswith(OPEN):
        try:
            return key, _whole_lines(storage.read(key))
        except ObjectNotFound:
            # Its writer closed it after we listed it.
            key = f"{prefix}/{number:06d}{CLOSED}"
    try:
        return key, zstandard.ZstdDecompressor().decompress(storage.read(key))
    except zstandard.ZstdError as error:
        raise CorruptObject(f"{storage.uri}: {key}: {error}", reason="OBJECT_CORRUPT", key=key) from error


def _whole_lines(data: bytes) -> bytes:
    return data[: data.rfind(b"\n") + 1]


def _compressed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(data)
