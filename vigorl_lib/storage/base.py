"""The Storage interface: bytes under keys, in a folder or in a bucket, with one and the same meaning.

A key is a relative path with `/` between its parts. A reader sees an object whole or not at all: there
is no half-written object under a key. `create` is the only claim among racing writers; everything else
that must be exactly-once is built on it and on markers written last (`vigorl_lib.storage.commit`).
All calls block; asynchronous callers use `asyncio.to_thread`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import unquote, urlsplit

from vigorl_lib.errors import ConfigError, StorageError
from vigorl_lib.storage.config import S3Settings

TEMPORARY_PREFIX = ".tmp-"
"""File names that begin so are writes in progress in a folder; no key may."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_READ_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Checksum:
    """Size in bytes and SHA-256 (lower-case hex) of an object's content."""

    size: int
    sha256: str


class Storage(Protocol):
    """Bytes under keys. Every method raises StorageError (with its `infrastructure` flag) where storage fails."""

    @property
    def uri(self) -> str:
        """What `open_storage` opens again."""
        ...

    def check(self) -> None:
        """Raise StorageError unless this storage is there, is ours to write, and has an atomic `create`."""
        ...

    def read(self, key: str) -> bytes:
        """Whole content. Raises ObjectNotFound."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Write or replace, atomically."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Write if nothing is there; False if something is. Of racing writers exactly one gets True.

        Raises StorageError (CONDITIONAL_WRITE_UNSUPPORTED) where the back end cannot promise that.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> list[str]:
        """Sorted keys that begin with the string `prefix`; end it with `/` to mean a folder."""
        ...

    def delete(self, key: str) -> None:
        """Remove; nothing happens where there is nothing."""
        ...

    def checksum(self, key: str) -> Checksum:
        """Size and digest of the content as stored, without holding it in memory. Raises ObjectNotFound."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file or folder behind a key of a folder storage, there or not; None for a bucket."""
        ...

    def upload_folder(self, folder: Path, prefix: str) -> None:
        """Write every file below `folder` under `prefix/`, each atomically; the whole is not."""
        ...

    def download(self, key: str, path: Path) -> None:
        """Write an object into a file, without holding it in memory. Raises ObjectNotFound."""
        ...

    def download_folder(self, prefix: str, folder: Path) -> None:
        """Write every object under `prefix/` into `folder`. Raises ObjectNotFound where there is none."""
        ...


def open_storage(uri: str, s3: S3Settings | None = None) -> Storage:
    """Storage at `file:///x`, `/x`, `x` or `s3://bucket/prefix`; nothing is touched yet.

    For S3 the settings come from the environment unless given. Raises ConfigError (STORAGE_URI,
    S3_SETTINGS_MISSING).
    """
    from vigorl_lib.storage.folder import FolderStorage

    if "://" not in uri:
        return FolderStorage(Path(uri))
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return FolderStorage(Path(unquote(parts.path)))
    if parts.scheme == "s3" and _BUCKET.fullmatch(parts.netloc):
        from vigorl_lib.storage.s3 import S3Storage, settings_from_environment

        return S3Storage(parts.netloc, parts.path.strip("/"), s3 or settings_from_environment())
    raise ConfigError(
        f"expected a folder, file:///path or s3://bucket/prefix (a bucket's name has 3 to 63 lower-case letters, "
        f"digits, '.' or '-'), found {uri!r}",
        reason="STORAGE_URI",
        uri=uri,
    )


def check_key(key: str) -> str:
    """The key, if it is one; raises StorageError (KEY_INVALID) for one that could leave the root."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or part.startswith(TEMPORARY_PREFIX) for part in parts) or "\0" in key:
        raise StorageError(
            f"expected a relative key such as 'runs/a/config.json', found {key!r}",
            reason="KEY_INVALID",
            infrastructure=False,
            key=key,
        )
    return key


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative key and path of every file below a folder, sorted."""
    if not folder.is_dir():
        raise StorageError(f"no folder {folder}", reason="FOLDER_MISSING", infrastructure=False, folder=folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path


def checksum_stream(stream: IO[bytes]) -> Checksum:
    """Size and digest of everything that a stream has left to give."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(_READ_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return Checksum(size, digest.hexdigest())
