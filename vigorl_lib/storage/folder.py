"""Storage in a folder of a local or shared file system.

A write goes to a temporary name beside its target and is renamed, `create` links the temporary name
to the target, so a process that is killed leaves at most a temporary file that no reader sees. Nothing
is fsynced: what was written survives the death of the process, not that of the machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import EMLINK, ENOTSUP, EPERM
from functools import partial
from pathlib import Path
from uuid import uuid4

from vigorl_lib.errors import ObjectNotFound, StorageError
from vigorl_lib.storage.base import TEMPORARY_PREFIX, Checksum, check_key, checksum_stream, files_below

_MKDIR_TRIES = 10


class FolderStorage:
    """Objects are files below `root`, which is made when first written to."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    def __repr__(self) -> str:
        return f"FolderStorage({str(self.root)!r})"

    @property
    def uri(self) -> str:
        return str(self.root)

    def check(self) -> None:
        key = f"{uuid4().hex}.probe"
        try:
            if not self.create(key, b"") or self.create(key, b""):
                raise _unsupported(self.root)
        finally:
            self.delete(key)

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        self._place(key, lambda temporary: _fill(temporary, data), _replace)

    def create(self, key: str, data: bytes) -> bool:
        return self._place(key, lambda temporary: _fill(temporary, data), self._link)

    def exists(self, key: str) -> bool:
        with self._errors(key):
            return self._path(key).is_file()

    def list(self, prefix: str = "") -> list[str]:
        # Only the folder that the prefix reaches into is walked.
        reach, _, _ = prefix.rpartition("/")
        start = self._path(reach) if reach else self.root
        keys = []
        with self._errors(prefix):
            for folder, _, names in os.walk(start, onerror=_raise_unless_gone):
                relative = os.path.relpath(folder, self.root)
                lead = "" if relative == "." else relative.replace(os.sep, "/") + "/"
                keys += [lead + name for name in names if not name.startswith(TEMPORARY_PREFIX)]
        return sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors(key):
            path.unlink(missing_ok=True)
        # Folders exist only through their files, as in a bucket; a folder that is in use does not go.
        for parent in path.parents:
            if parent == self.root:
                return
            try:
                parent.rmdir()
            except OSError:
                return

    def checksum(self, key: str) -> Checksum:
        with self._errors(key), self._path(key).open("rb") as stream:
            return checksum_stream(stream)

    def local_path(self, key: str) -> Path:
        return self._path(key)

    def upload_folder(self, folder: Path, prefix: str) -> None:
        for name, source in files_below(folder):
            self._place(f"{prefix}/{name}", partial(shutil.copyfile, source), _replace)

    def download(self, key: str, path: Path) -> None:
        with self._errors(key):
            shutil.copyfile(self._path(key), path)

    def download_folder(self, prefix: str, folder: Path) -> None:
        keys = self.list(f"{prefix}/")
        if not keys:
            raise ObjectNotFound(f"nothing under {prefix}/ in {self.uri}", reason="OBJECT_NOT_FOUND", key=prefix)
        for key in keys:
            target = folder / key.removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.download(key, target)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _place(self, key: str, fill: Callable[[str], object], place: Callable[[str, str], bool]) -> bool:
        """Fill a temporary file beside the target, then put it in place; nothing is left of a failure."""
        target = str(self._path(key))
        folder = os.path.dirname(target)
        temporary = f"{folder}/{TEMPORARY_PREFIX}{uuid4().hex}"
        with self._errors(key):
            try:
                # A racing delete may take the folder away again while it is empty.
                for _ in range(_MKDIR_TRIES):
                    try:
                        fill(temporary)
                        break
                    except (FileNotFoundError, NotADirectoryError):
                        os.makedirs(folder, exist_ok=True)
                return place(temporary, target)
            finally:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.unlink(temporary)

    def _link(self, temporary: str, target: str) -> bool:
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in (EPERM, ENOTSUP, EMLINK):
                raise _unsupported(self.root) from error
            raise
        return True

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return folder_errors(self.uri, key)


@contextmanager
def folder_errors(uri: str, key: str) -> Iterator[None]:
    """Tell a failure of the file system as a StorageError."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise ObjectNotFound(f"no object {key} in {uri}", reason="OBJECT_NOT_FOUND", key=key) from None
    except StorageError:
        raise
    except FileExistsError as error:
        raise StorageError(
            f"{uri}: {key}: {error.filename} is a file where a folder is needed",
            reason="KEY_CONFLICT",
            infrastructure=False,
            key=key,
        ) from error
    except PermissionError as error:
        raise StorageError(
            f"{uri}: permission denied for {error.filename}; give this user the right to read and write there",
            reason="STORAGE_ACCESS_DENIED",
            infrastructure=False,
            key=key,
        ) from error
    except OSError as error:
        raise StorageError(f"{uri}: {key}: {error.strerror or error}", reason="STORAGE_UNAVAILABLE", key=key) from error


def _fill(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _replace(temporary: str, target: str) -> bool:
    os.replace(temporary, target)
    return True


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _unsupported(root: Path) -> StorageError:
    return StorageError(
        f"{root}: this file system cannot create a file exactly once (hard links are refused); use another folder",
        reason="CONDITIONAL_WRITE_UNSUPPORTED",
        infrastructure=False,
    )
