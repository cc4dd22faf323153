"""The table of what `vigorl data download` knows by name: `sources.yaml`, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import yaml

from vigorl_lib.data.hub import Commit, HubFile
from vigorl_lib.errors import ConfigError, DataError

FILE = Path(__file__).with_name("sources.yaml")


@dataclass(frozen=True, slots=True)
class DataSource:
    """One entry. `files` are patterns (`*` crosses folders), `size_bytes` is 0 where no listing says it."""

    name: str
    title: str
    repository: str
    files: tuple[str, ...]
    size_bytes: int
    licence: str
    split: str
    next: str
    revision: str = "main"

    def chosen(self, commit: Commit) -> list[HubFile]:
        """The commit's files that are taken. Raises DataError (FILES_MISSING) for a pattern without any."""
        for pattern in self.files:
            if not any(fnmatchcase(file.path, pattern) for file in commit.files):
                held = ", ".join(sorted({file.path.split("/")[0] for file in commit.files})[:12])
                raise DataError(
                    f"{self.repository} at {commit.sha[:12]} has no file like {pattern}; it holds {held or 'nothing'}. "
                    "Name another --revision, or the files with --files",
                    reason="FILES_MISSING",
                )
        return [file for file in commit.files if any(fnmatchcase(file.path, pattern) for pattern in self.files)]


@lru_cache
def data_sources() -> Mapping[str, DataSource]:
    """All entries by name, in the order of the file."""
    table = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {
        name: DataSource(
            name=name,
            title=entry["title"],
            repository=entry["repository"],
            files=tuple(entry["files"]),
            size_bytes=entry["bytes"],
            licence=entry["licence"],
            split=entry["split"],
            next=entry["next"],
            revision=entry.get("revision", "main"),
        )
        for name, entry in table.items()
    }


def find_source(name: str) -> DataSource:
    """The entry of this name. Raises ConfigError (SOURCE_UNKNOWN) that names close ones."""
    known = data_sources()
    if name not in known:
        close = get_close_matches(name, known, n=3) or list(known)
        raise ConfigError(
            f"nothing to download is called {name!r}; expected {', '.join(close)}", reason="SOURCE_UNKNOWN"
        )
    return known[name]
