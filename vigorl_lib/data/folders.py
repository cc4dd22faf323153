"""Which files of a folder hold the rows of one split, in the layouts of Hugging Face: a clone of a repository of the
Hub, an image folder with its metadata, or what `datasets` saved to disk.

Only names are looked at. Files whose names say nothing of any split are taken whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vigorl_lib.errors import DataError

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""What an image folder calls the table beside its images."""
KNOWN_SPLITS = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
_NO_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "download.json"}


def split_files(folder: Path, split: str) -> list[Path]:
    """Files with the rows of a split, sorted by name.

    Raises DataError: FILES_MISSING where there is no table, SPLIT_UNKNOWN where the names tell of other splits only.
    """
    found = _tables(folder)
    if not found:
        raise DataError(
            f"{folder}: expected tables (Parquet, Arrow, JSONL, JSON or CSV, or an image folder's "
            f"{METADATA[0]}) somewhere below it, found none",
            reason="FILES_MISSING",
        )
    mine = [path for path in found if split in _splits(path, folder, (split, *KNOWN_SPLITS))]
    if mine:
        return mine
    others = sorted({name for path in found for name in _splits(path, folder, KNOWN_SPLITS)})
    if others:
        raise DataError(
            f"{folder}: no file of the split {split!r}; the files' names tell of {', '.join(others)}",
            reason="SPLIT_UNKNOWN",
        )
    return found


def _tables(folder: Path) -> list[Path]:
    """Files of one kind, the first kind that there is: a clone may hold the same rows in more than one."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _hidden(path.relative_to(folder))]
    metadata = [path for path in files if path.name in METADATA]
    if metadata:
        return metadata
    for suffix in (".parquet", ".arrow", ".jsonl", ".json", ".csv"):
        if kind := [path for path in files if path.suffix == suffix and path.name not in _NO_ROWS]:
            return kind
    return []


def _splits(path: Path, folder: Path, names: Sequence[str]) -> set[str]:
    """The splits that a path names, such as `data/train-00000-of-00002.parquet` or `test/metadata.jsonl`."""
    words = set(re.split(r"[/._-]+", path.relative_to(folder).as_posix()))
    whole = set(path.relative_to(folder).with_suffix("").parts)
    return {name for name in names if name in words | whole}


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
