"""The published files of a benchmark as rows and images. What the rows mean is said beside each benchmark.

A benchmark is found wherever its files lie below a folder, because hubs, archives and mirrors nest them differently.
Rows come as `Fields`, so that a field that is missing or of another type is an error with file and row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vigorl_lib.data.drafts import Picture, cell_pictures, find_file
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.rows import open_table
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError
from vigorl_lib.storage.images import probe


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

    def image(self, row: Fields, picture: Picture, beside: Path, folders: Sequence[str] = ("",)) -> Image:
        """The image of these bytes, or in the file that `image_path` finds. Raises DataError, also for no image."""
        data = picture if isinstance(picture, bytes) else self.image_path(row, picture, beside, folders).read_bytes()
        return checked_image(row, data)

    def image_path(self, row: Fields, name: str, beside: Path, folders: Sequence[str] = ("",)) -> Path:
        """The file called `name`, looked for in `folders` beside the rows' file, then under the root.

        Raises DataError (IMAGE_MISSING) with the row.
        """
        places = [find_file(base / folder, name) for base in (beside.parent, self.root) for folder in folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            tried = ", ".join(str(place) for place in places)
            raise row.error(f"cannot find the image {name!r}; looked at {tried}", "IMAGE_MISSING")
        return found


def read_rows(path: Path) -> Iterator[Fields]:
    """Rows of a file, by its ending. One that cannot be read ends it: with fewer questions it is another benchmark."""
    for row in open_table(path).rows:
        if isinstance(row, DataError):
            raise row
        yield row


def cell_image(row: Fields, name: str) -> Image:
    """The image in a Parquet cell, `{"bytes", "path"}` as Hugging Face writes it.

    Raises DataError (IMAGE_MISSING) for an empty cell.
    """
    images = cell_images(row, name) if name in row else ()
    if len(images) != 1:
        raise row.error(f"{name}: expected an image, found {len(images) or 'none'}", "IMAGE_MISSING")
    return images[0]


def numbered_images(row: Fields, count: int) -> tuple[Image, ...]:
    """The images in the cells `image_1` to `image_<count>`, of which a row fills one at least."""
    names = [name for number in range(1, count + 1) if (name := f"image_{number}") in row]
    if not names:
        raise row.error("image_1: expected an image, found none", "IMAGE_MISSING")
    return tuple(cell_image(row, name) for name in names)


def cell_images(row: Fields, name: str) -> tuple[Image, ...]:
    """The images of a list cell."""
    return tuple(_in_cell(row, name, picture) for picture in cell_pictures(row, name))


def checked_image(row: Fields, data: bytes) -> Image:
    try:
        return probe(data)
    except DataError as error:
        raise row.error(error.message, error.reason) from None


def _in_cell(row: Fields, name: str, picture: Picture) -> Image:
    if isinstance(picture, str):
        raise row.error(f"{name}: expected the bytes of an image, found the path {picture!r} alone", "IMAGE_MISSING")
    return checked_image(row, picture)
