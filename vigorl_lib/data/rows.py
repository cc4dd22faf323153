"""Rows of the files that data sets come in: JSON, JSONL, CSV, Parquet and Arrow, all as `Fields` with file and number.

What a row means is said elsewhere. A row that cannot be read is given as its error, so that the rows behind it are
still told about; a file that cannot be read at all is raised.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.errors import DataError

BATCH_ROWS = 8
"""Rows of a Parquet or Arrow file in memory at a time: each may hold images of several megabytes, and a benchmark's
thirty files are open together."""

Row = Fields | DataError
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file: how many there are, and they themselves, read as they are taken."""

    path: Path
    count: int
    rows: Iterator[Row]


def open_table(path: Path) -> Table:
    """The rows of a file, by its ending. Raises DataError (FILE_MISSING, FORMAT_UNKNOWN, RECORD_INVALID)."""
    try:
        match path.suffix.lower():
            case ".jsonl":
                return _jsonl(path)
            case ".json":
                return _json(path)
            case ".csv":
                return _csv(path)
            case ".parquet":
                return _parquet(path)
            case ".arrow":
                return _arrow(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", reason="FILE_MISSING") from None
    raise DataError(
        f"{path}: expected a file that ends with {', '.join(SUFFIXES)}, found {path.suffix!r}", reason="FORMAT_UNKNOWN"
    )


def first_row(path: Path) -> Fields | None:
    """The first row that can be read; None of a file without one."""
    return next((row for row in open_table(path).rows if isinstance(row, Fields)), None)


def _jsonl(path: Path) -> Table:
    lines = list(numbered_lines(path.read_bytes(), path.name))
    return Table(path, len(lines), (_parsed(line, where) for where, line in lines))


def _parsed(line: bytes, where: str) -> Row:
    try:
        return parse_line(line, where)
    except DataError as error:
        return error


def _json(path: Path) -> Table:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected a JSON list of objects: {error}", reason="RECORD_INVALID") from None
    if not isinstance(values, list):
        raise DataError(
            f"{path}: expected a JSON list of objects, found {type(values).__name__}", reason="RECORD_INVALID"
        )
    return Table(path, len(values), _numbered(path, iter(values)))


def _csv(path: Path) -> Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text: {error}", reason="RECORD_INVALID") from None
    values = list(csv.DictReader(io.StringIO(text, newline="")))
    return Table(path, len(values), _numbered(path, iter(values)))


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: expected a Parquet file: {error}", reason="RECORD_INVALID") from None
    batches = file.iter_batches(batch_size=BATCH_ROWS)
    return Table(path, file.metadata.num_rows, _numbered(path, _batch_rows(path, batches)))


def _arrow(path: Path) -> Table:
    import pyarrow

    try:
        # As `datasets` saves to disk: a stream, mapped so that only what is taken comes into memory.
        table = pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: expected an Arrow stream: {error}", reason="RECORD_INVALID") from None
    return Table(path, table.num_rows, _numbered(path, _batch_rows(path, table.to_batches(BATCH_ROWS))))


def _batch_rows(path: Path, batches: Any) -> Iterator[dict[str, Any]]:
    import pyarrow

    try:
        for batch in batches:
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: the file is cut short or damaged: {error}", reason="RECORD_INVALID") from None


def _numbered(path: Path, values: Iterator[object]) -> Iterator[Row]:
    for number, value in enumerate(values, start=1):
        try:
            yield Fields(value, f"{path.name}:{number}")
        except DataError as error:
            yield error
