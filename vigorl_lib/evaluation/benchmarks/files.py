"""The published files of a benchmark as rows and images. What the rows mean is said beside each benchmark.

A benchmark is found wherever its files lie below a folder, because hubs, archives and mirrors nest them differently.
Rows come as `Fields`, so that a field that is missing or of another type is an error with file and row.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError
from vigorl_lib.storage.images import probe

PARQUET_ROWS = 8
"""Rows of each Parquet file in memory at a time, with images of several megabytes; MMMU has thirty files."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of one split: `paths` hold rows, images are beside them or anywhere that rows name under `root`."""

    root: Path
    paths: tuple[Path, ...]
    split: str

    def rows(self) -> Iterator[tuple[Path, Fields]]:
        """Every row with the file that it stands in; files take turns, so that the first rows are of all of them.

        Raises DataError (FILE_MISSING, RECORD_INVALID).
        """
        waiting = deque((path, read_rows(path)) for path in self.paths)
        while waiting:
            path, rows = waiting.popleft()
            if (row := next(rows, None)) is not None:
                yield path, row
                waiting.append((path, rows))

    def image(self, row: Fields, name: str, beside: Path, folders: Sequence[str] = ("",)) -> Image:
        """The image in the file that `image_path` finds. Raises DataError, also where the file is no image."""
        return checked_image(row, self.image_path(row, name, beside, folders).read_bytes())

    def image_path(self, row: Fields, name: str, beside: Path, folders: Sequence[str] = ("",)) -> Path:
        """The file called `name`, looked for in `folders` beside the rows' file, then under the root.

        Raises DataError (IMAGE_MISSING) with the row.
        """
        places = [base / folder / name for base in (beside.parent, self.root) for folder in folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            tried = ", ".join(str(place) for place in places)
            raise row.error(f"cannot find the image {name!r}; looked at {tried}", "IMAGE_MISSING")
        return found


def read_rows(path: Path) -> Iterator[Fields]:
    """Rows of a JSON array, a JSONL or a Parquet file, by its ending."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
        elif path.suffix == ".jsonl":
            yield from (parse_line(line, where) for where, line in numbered_lines(path.read_bytes(), path.name))
        else:
            yield from _json_rows(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}", reason="FILE_MISSING") from None


def cell_image(row: Fields, name: str) -> Image | None:
    """The image in a Parquet cell, `{"bytes", "path"}` as Hugging Face writes it; None for an empty cell."""
    cell = row.values.get(name)
    return None if cell is None else _cell(row, name, cell)


def cell_images(row: Fields, name: str) -> tuple[Image, ...]:
    """The images of a list cell."""
    return tuple(_cell(row, name, cell) for cell in row.items(name))


def checked_image(row: Fields, data: bytes) -> Image:
    try:
        return probe(data)
    except DataError as error:
        raise row.error(error.message, error.reason) from None


def _cell(row: Fields, name: str, cell: object) -> Image:
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes):
        raise row.error(f"{name}: expected the bytes of an image, found {type(data).__name__}", "IMAGE_MISSING")
    return checked_image(row, data)


def _parquet_rows(path: Path) -> Iterator[Fields]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Fields(values, f"{path.name}:{number}")
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: expected a Parquet file: {error}", reason="RECORD_INVALID") from None


def _json_rows(path: Path) -> Iterator[Fields]:
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: expected a JSON list: {error}", reason="RECORD_INVALID") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a JSON list, found {type(rows).__name__}", reason="RECORD_INVALID")
    for number, values in enumerate(rows, start=1):
        yield Fields(values, f"{path.name}:{number}")
