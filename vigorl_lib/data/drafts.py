"""A question on its way in: the fields of an example record, and images that are not in storage yet.

Readers of formats make drafts, `vigorl_lib.data.importers` makes examples of them. Here is also what every reader
needs: images as paths or as bytes in cells, and the answers of the reference's records, which are all text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from vigorl_lib.data.fields import Fields
from vigorl_lib.data.records import image_to_record, record_to_example
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.web_action import parse_action
from vigorl_lib.errors import DataError, VigorlError

Picture = str | bytes
"""A path, relative to the image folder or absolute; or encoded bytes."""

_BOX = re.compile(r"\s*[\[(]\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*[\])]\s*")


@dataclass(frozen=True, slots=True)
class Draft:
    """`record` has the fields of an example record but `images`; `clip` cuts its box off where the image ends."""

    fields: Fields
    record: dict[str, Any]
    pictures: tuple[Picture, ...]
    clip: bool = False

    def example(self, images: Sequence[Image]) -> Example:
        """The example about `images`, which need no bytes. Raises DataError (RECORD_INVALID)."""
        record = self.record | {"images": [image_to_record(image) for image in images]}
        if self.clip and images and "box" in record:
            x0, y0, x1, y1 = record["box"]
            size = images[0].size
            # One that lies nowhere on the image stays as it is, to be refused with its corners.
            if x0 < size.width and y0 < size.height and x1 > 0 and y1 > 0:
                record["box"] = [max(0, x0), max(0, y0), min(size.width, x1), min(size.height, y1)]
        return record_to_example(record, where=self.fields.where)


Read = Callable[[Fields], Draft | None]
"""Draft of a row; None for one that the format says to skip. Raises DataError."""

Put = Callable[[bytes], Image]
"""What is done with an image's bytes: stored, or only looked at. Raises DataError for no image."""


class Pictures:
    """Images by what names them; a file that several rows name is read once. Safe to share among threads."""

    def __init__(self, put: Put) -> None:
        self._put, self._lock = put, Lock()
        self._files: dict[Path, Future[Image]] = {}

    def image(self, fields: Fields, picture: Picture, folder: Path) -> Image:
        """An image without its bytes; paths are below `folder`. Raises DataError (IMAGE_MISSING, …) with the row."""
        try:
            if isinstance(picture, bytes):
                return self._put(picture).without_data()
            return self._file(find_file(folder, picture)).result()
        except OSError as error:
            if isinstance(error, VigorlError):
                raise
            path = find_file(folder, str(picture))
            raise fields.error(
                f"cannot read the image {path}: {error.strerror}; images are looked for below {folder} (--images)",
                "IMAGE_MISSING",
            ) from None
        except DataError as error:
            name = "" if isinstance(picture, bytes) else f"{picture}: "
            raise fields.error(f"{name}{error.message}", error.reason) from None

    def _file(self, path: Path) -> Future[Image]:
        with self._lock:
            known = self._files.get(path)
            if known is not None:
                return known
            future = self._files[path] = Future()
        try:
            future.set_result(self._put(path.read_bytes()).without_data())
        except BaseException as error:
            # Whoever waits for it must hear of it, too.
            future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        return future


def cell_pictures(fields: Fields, name: str) -> tuple[Picture, ...]:
    """The images of a field: a path, bytes, `{"bytes", "path"}` as Hugging Face writes them, or a list of those."""
    value = fields.values.get(name)
    found = value if isinstance(value, list) else [value]
    return tuple(_picture(fields, name, one) for one in found)


def _picture(fields: Fields, name: str, value: object) -> Picture:
    if isinstance(value, dict):
        # Bytes first: beside them the path is only what the file was called.
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str | bytes) and value:
        return value
    raise fields.error(f"{name}: expected a path or the bytes of an image, found {type(value).__name__}")


def text_answer(answer: str, kind: AnswerKind | None) -> dict[str, Any]:
    """Truth fields of an answer that is text alone: a box `(x1, y1, x2, y2)` asks for a point in it.

    Without `kind`, a box is a point, what reads as a web action is one, and all else is a string.
    """
    corners = _BOX.fullmatch(answer)
    if kind in (None, AnswerKind.POINT) and corners is not None:
        return {"kind": AnswerKind.POINT.value, "box": [int(corner) for corner in corners.groups()]}
    if kind is None:
        kind = AnswerKind.STRING if parse_action(answer) is None else AnswerKind.ACTION
    return {"kind": kind.value, "answer": answer}


def find_file(root: Path, name: str) -> Path:
    """The file of an image's path. Of an absolute path that is not there, the longest end that is below `root`.

    Records that were written on another machine name images by absolute paths. Where nothing is found, the path as it
    was given comes back.
    """
    path = root / name
    if PurePosixPath(name).is_absolute() and not path.is_file():
        parts = PurePosixPath(name).parts[1:]
        ends = (root.joinpath(*parts[start:]) for start in range(len(parts)))
        return next((end for end in ends if end.is_file()), path)
    return path


def lettered(fields: Fields, choices: Sequence[str], answer: object) -> object:
    """The choice that an answer names by number from 0, or by a letter such as `B` or `(B)`; else the answer itself."""
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in choices:
        if not 0 <= answer < len(choices):
            raise fields.error(f"answer: expected the number of one of {len(choices)} choices from 0, found {answer}")
        return choices[answer]
    if isinstance(answer, str) and answer not in choices:
        letter = answer.strip("() .").upper()
        index = ord(letter) - ord("A") if len(letter) == 1 else -1
        if 0 <= index < len(choices):
            return choices[index]
    return answer
