"""Archives taken apart into storage, one member at a time; an archive is somebody else's and may be hostile.

A name that leads out of its folder, and anything that is neither file nor folder, is refused before a byte of it is
written; links inside a tar become copies. What was taken out before a refusal stays.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_MEMBER_BYTES = 8 << 30
"""A member is in memory while it is written; one that claims more is refused."""

UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
"""What the two readers raise about archives that are damaged, cut short, encrypted or packed in an unknown way."""

Member = tuple[str, int, Callable[[], bytes]]
"""Name, size in bytes, and the content once it is wanted."""


def unpack(archive: Path, storage: Storage, prefix: str, on_file: Callable[[int], None] = lambda count: None) -> int:
    """Write every file of a tar or zip under `prefix/` and return how many; the same again writes the same.

    `on_file` gets the number of files so far.
    Raises DataError (ARCHIVE_UNSAFE, ARCHIVE_UNREADABLE).
    """
    count = 0
    try:
        for name, size, content in _zip(archive) if archive.suffix == ".zip" else _tar(archive):
            if PurePosixPath(name).name.startswith("._"):
                # What macOS puts beside each file of an archive is no file of the data.
                continue
            if size > MAX_MEMBER_BYTES:
                raise _unsafe(archive, name, f"claims {size} bytes, more than {MAX_MEMBER_BYTES}")
            storage.write(f"{prefix}/{name}" if prefix else name, content())
            count += 1
            on_file(count)
    except UNREADABLE as error:
        if isinstance(error, tarfile.FilterError):
            raise _unsafe(archive, error.tarinfo.name, str(error)) from None
        raise DataError(
            f"{archive.name}: expected a whole archive: {error}; delete it and download it again",
            reason="ARCHIVE_UNREADABLE",
        ) from None
    return count


def _tar(archive: Path) -> Iterator[Member]:
    # Only for the check of names: nothing is written there.
    root = str(archive.parent.absolute())
    with tarfile.open(archive) as tar:
        for original in tar:
            member = tarfile.data_filter(original, root)
            if member.isdir():
                continue
            stream = tar.extractfile(member)
            if stream is None:
                raise _unsafe(archive, member.name, "is no file")
            yield _clean(archive, member.name), member.size, stream.read


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            if not info.is_dir():
                # Reading stops at the size that was claimed, and an archive that holds more is damaged.
                yield _clean(archive, info.filename), info.file_size, lambda info=info: container.read(info)  # type: ignore[misc]


def _clean(archive: Path, name: str) -> str:
    """The name as a key. Raises DataError where it leads elsewhere."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise _unsafe(archive, name, "leads out of its folder")
    return path.as_posix()


def _unsafe(archive: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{archive.name}: the member {name!r} {why}; it is not taken out", reason="ARCHIVE_UNSAFE", name=name
    )
