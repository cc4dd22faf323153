"""The paper's public data, brought from the Hub into a folder or a bucket, one file at a time.

Archives are unpacked and not kept, so besides what is wanted there is room needed for one of them. A download that was
cut off goes on where it was: a record in the target says which files are done, and a file that is not goes on with the
bytes that are there. Making data sets of the files is `vigorl benchmark import` and `vigorl data import`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from vigorl_lib.data.archives import SUFFIXES, unpack
from vigorl_lib.data.fields import parse_line
from vigorl_lib.data.hub import Commit, Hub, HubFile
from vigorl_lib.data.sources import DataSource
from vigorl_lib.domain.image import digest
from vigorl_lib.errors import ObjectNotFound, StorageError
from vigorl_lib.models.weights import open_parent
from vigorl_lib.storage.base import Storage

OnBytes = Callable[[str, int, int], None]
"""Gets what is being done, the bytes that are done and those of all files."""


@dataclass(frozen=True, slots=True)
class Done:
    """A file that is there: its size in bytes and digest as it came, and how many files it unpacked to (0: none).

    `told` is the digest that the Hub told, SHA-256 or git's.
    """

    size: int
    sha256: str
    told: str
    unpacked: int = 0


@dataclass(slots=True)
class Plan:
    """What is to be downloaded of which commit, where to, and what of it is there already."""

    source: DataSource
    commit: Commit
    files: list[HubFile]
    target: Storage
    prefix: str
    done: dict[str, Done] = field(default_factory=dict)

    @property
    def waiting(self) -> list[HubFile]:
        return [file for file in self.files if file.path not in self.done]

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def record_key(self) -> str:
        return f"{self.prefix}/.vigorl-download-{self.source.name}.json"


def plan_download(source: DataSource, uri: str, hub: Hub, *, revision: str = "") -> Plan:
    """Ask the Hub what there is, and the target what is there already; nothing is written.

    Raises StorageError (HUB_REFUSED, HUB_UNREACHABLE), DataError (FILES_MISSING).
    """
    target, prefix = open_parent(uri)
    commit = hub.commit(source.repository, revision or source.revision)
    plan = Plan(source, commit, source.chosen(commit), target, prefix)
    plan.done = _done(plan)
    return plan


def download(plan: Plan, hub: Hub, scratch: Path, on_bytes: OnBytes = lambda what, done, total: None) -> None:
    """Do what is waiting; `plan.done` grows with it. `scratch` is a local folder for what is on its way.

    Raises CorruptObject (DOWNLOAD_CORRUPT), DataError (ARCHIVE_UNSAFE, ARCHIVE_UNREADABLE), StorageError (HUB_REFUSED,
    HUB_UNREACHABLE, DISK_FULL).
    """
    before = sum(file.size for file in plan.files if file.path in plan.done)
    for file in plan.waiting:
        _check_room(file, scratch)

        def told(what: str, size: int, before: int = before) -> None:
            on_bytes(what, before + size, plan.size_bytes)

        unpacked, sha256 = _bring(plan, file, hub, scratch, told)
        before += file.size
        plan.done[file.path] = Done(file.size, sha256, file.digest, unpacked)
        _write_record(plan)
    # The folder may be the user's own: it goes only if it was of use for nothing else.
    with suppress(OSError):
        scratch.rmdir()


def is_archive(file: HubFile) -> bool:
    return file.path.endswith(SUFFIXES)


def _bring(plan: Plan, file: HubFile, hub: Hub, scratch: Path, told: Callable[[str, int], None]) -> tuple[int, str]:
    """Number of files that it unpacked to, and digest."""

    def fetched(size: int) -> None:
        told(file.path, size)

    place = plan.target.local_path(f"{plan.prefix}/{file.path}")
    if place is not None and not is_archive(file):
        return 0, hub.download(plan.commit, file, place, fetched)
    staging = scratch / digest(f"{plan.commit.sha}/{file.path}".encode())[:16]
    local = staging / file.path
    sha256 = hub.download(plan.commit, file, local, fetched)
    if is_archive(file):
        folder = f"{plan.prefix}/{file.path}".rpartition("/")[0]
        unpacked = unpack(local, plan.target, folder, lambda count: told(f"{file.path}: {count} files", file.size))
    else:
        # The folder holds this file alone.
        unpacked = 0
        plan.target.upload_folder(staging, plan.prefix)
    shutil.rmtree(staging)
    return unpacked, sha256


def _check_room(file: HubFile, scratch: Path) -> None:
    scratch.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(scratch).free
    if free < file.size:
        raise StorageError(
            f"{file.path} needs {file.size / 1e9:.1f} GB, and {scratch} has {free / 1e9:.1f} GB free; make room, or "
            "name another folder with --scratch",
            reason="DISK_FULL",
            infrastructure=False,
        )


def _done(plan: Plan) -> dict[str, Done]:
    """What the record names that is still what the commit holds, and still there."""
    try:
        fields = parse_line(plan.target.read(plan.record_key), plan.record_key)
    except ObjectNotFound:
        return {}
    same_commit = fields.text("commit") == plan.commit.sha
    told = fields.nested("files")
    found: dict[str, Done] = {}
    for file in plan.files:
        if file.path not in told:
            continue
        part = told.nested(file.path)
        done = Done(part.integer("size"), part.text("sha256"), part.text("told"), part.integer("unpacked"))
        same = done.told == file.digest if file.digest else same_commit
        if same and (done.unpacked or plan.target.exists(f"{plan.prefix}/{file.path}")):
            found[file.path] = done
    return found


def _write_record(plan: Plan) -> None:
    record: dict[str, Any] = {
        "name": plan.source.name,
        "repository": plan.commit.repository,
        "commit": plan.commit.sha,
        "licence": plan.commit.licence or plan.source.licence,
        "files": {path: asdict(done) for path, done in plan.done.items()},
    }
    plan.target.write(plan.record_key, json.dumps(record, indent=1, sort_keys=True).encode())


def only(source: DataSource, patterns: tuple[str, ...]) -> DataSource:
    """The entry with other patterns of files, if any are given."""
    return replace(source, files=patterns) if patterns else source
