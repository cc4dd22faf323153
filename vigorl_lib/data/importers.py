"""A user's own questions and image files, brought into storage as a data set.

The source is a JSONL file whose lines have the fields of `vigorl_lib.data.records`, except that `image`
or `images` name files. Every line is checked before anything is written but images; what is wrong is told
with file and line.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.data.records import FIELDS, image_to_record, record_to_example
from vigorl_lib.domain.example import Example
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

USER_FIELDS = (*FIELDS, "image")
_PROBLEMS_TOLD = 5


def import_folder(
    storage: Storage,
    jsonl: Path,
    image_root: Path,
    name: str,
    split: str,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> list[Example]:
    """Import a JSONL file and the images it names, as `split` of the data set `name`; returns its examples.

    Image paths are relative to `image_root`. All lines are read even if one is wrong. Raises DataError
    (IMPORT_FAILED) that tells the first problem in full and the places of the next ones; `on_progress`
    gets the number of lines done.
    """
    images = ImageStore(storage, cache_bytes=0)
    examples: list[Example] = []
    seen: dict[str, str] = {}
    problems: list[DataError] = []
    for where, line in numbered_lines(_read(jsonl), jsonl.name):
        try:
            example = _example(parse_line(line, where), image_root, images)
            if example.example_id in seen:
                raise DataError(
                    f"{where}: the id {example.example_id!r} is used at {seen[example.example_id]} already",
                    reason="DUPLICATE_ID",
                    where=where,
                )
            seen[example.example_id] = where
            examples.append(example)
        except DataError as error:
            problems.append(error)
        if on_progress is not None:
            on_progress(len(examples) + len(problems))
    if problems:
        raise _failed(problems)
    if not examples:
        raise DataError(f"{jsonl}: expected at least one line, found none", reason="IMPORT_FAILED")
    write_dataset(storage, images, name, split, examples, created_from={"importer": "folder", "file": jsonl.name})
    return examples


def _example(fields: Fields, image_root: Path, images: ImageStore) -> Example:
    fields.refuse_unknown(USER_FIELDS)
    if ("image" in fields) == ("images" in fields):
        raise fields.error("expected either 'image' (a path) or 'images' (a list of paths)")
    paths = [fields.text("image")] if "image" in fields else fields.items("images")
    record: dict[str, Any] = {key: value for key, value in fields.values.items() if key != "image"}
    record["images"] = [_import_image(fields, path, image_root, images) for path in paths]
    if type(record.get("id")) is int:
        record["id"] = str(record["id"])
    return record_to_example(record, where=fields.where)


def _import_image(fields: Fields, path: object, image_root: Path, images: ImageStore) -> dict[str, Any]:
    if not isinstance(path, str):
        raise fields.error(f"images: expected paths as text, found {path!r}")
    try:
        data = (image_root / path).read_bytes()
    except OSError as error:
        raise fields.error(f"cannot read the image {image_root / path}: {error.strerror}", "IMAGE_MISSING") from None
    try:
        return image_to_record(images.put(data))
    except DataError as error:
        raise fields.error(f"{path}: {error.message}", error.reason) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", reason="FILE_MISSING") from None


def _failed(problems: list[DataError]) -> DataError:
    first, *rest = problems
    places = [problem.metadata.get("where", "") for problem in rest[:_PROBLEMS_TOLD]]
    more = f" (and {len(rest)} more: {', '.join(places)}{' …' if len(rest) > len(places) else ''})" if rest else ""
    return DataError(first.message + more, reason="IMPORT_FAILED", problems=len(problems), first_reason=first.reason)
