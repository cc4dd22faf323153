"""Storage in a folder of a local or shared file system.

A write goes to a temporary name beside its target and is renamed, `create` links the temporary name
to the target, so a process that is killed leaves at most a temporary file that no reader sees. Nothing
is fsynced: what was written survives the death of the process, not that of the machine.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from errno import EMLINK, ENOTSUP, EPERM
from pathlib import Path
from uuid import uuid4

from vigorl_lib.errors import ObjectNotFound, StorageError
from vigorl_lib.storage.base import TEMPORARY_PREFIX, Checksum, check_key, checksum_stream, files_below


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
        with self._errors(key), self._temporary(self._path(key)) as temporary:
            temporary.write_bytes(data)
            os.replace(temporary, self._path(key))

    def create(self, key: str, data: bytes) -> bool:
        with self._errors(key), self._temporary(self._path(key)) as temporary:
            temporary.write_bytes(data)
            try:
                os.link(temporary, self._path(key))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (EPERM, ENOTSUP, EMLINK):
                    raise _unsupported(self.root) from error
                raise
            finally:
                temporary.unlink()
        return True

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
            target = self._path(f"{prefix}/{name}")
            with self._errors(f"{prefix}/{name}"), self._temporary(target) as temporary:
                shutil.copyfile(source, temporary)
                os.replace(temporary, target)

    def download_folder(self, prefix: str, folder: Path) -> None:
        keys = self.list(f"{prefix}/")
        if not keys:
            raise ObjectNotFound(f"nothing under {prefix}/ in {self.uri}", reason="OBJECT_NOT_FOUND", key=prefix)
        for key in keys:
            target = folder / key.removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._errors(key):
                shutil.copyfile(self._path(key), target)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    @contextmanager
    def _temporary(self, target: Path) -> Iterator[Path]:
        """A temporary file beside `target`, gone if the block fails."""
        temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid4().hex}"
        # A racing delete may remove the folder, emptied, between the two calls.
        for _ in range(10):
            with suppress(FileNotFoundError):
                temporary.touch()
                break
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

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
    except PermissionError as error:
        raise StorageError(
            f"{uri}: permission denied for {error.filename}; give this user the right to read and write there",
            reason="STORAGE_ACCESS_DENIED",
            infrastructure=False,
            key=key,
        ) from error
    except OSError as error:
        raise StorageError(f"{uri}: {key}: {error.strerror or error}", reason="STORAGE_UNAVAILABLE", key=key) from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _unsupported(root: Path) -> StorageError:
    return StorageError(
        f"{root}: this file system cannot create a file exactly once (hard links are refused); use another folder",
        reason="CONDITIONAL_WRITE_UNSUPPORTED",
        infrastructure=False,
    )
