"""Storage that outlasts an outage: what fails because storage is not there is tried again, for a bounded time.

For long runs that would lose work by ending. A service has clients that try again, and uses storage as it is. The first
call of a command should be a plain one, or a wrong address is waited for, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vigorl_lib.errors import StorageError
from vigorl_lib.storage.base import Checksum, Storage

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_S = 600.0
"""Below the half hour after which ranks that wait for this one give up."""
_PAUSE_S, _MAX_PAUSE_S = 0.2, 5.0


class PatientStorage:
    """`storage`, each of whose calls is tried again for up to `patience_s` while it fails for want of storage."""

    def __init__(self, storage: Storage, patience_s: float = PATIENCE_S) -> None:
        self._storage, self._patience_s = storage, patience_s

    def __repr__(self) -> str:
        return f"PatientStorage({self._storage!r})"

    @property
    def uri(self) -> str:
        return self._storage.uri

    def check(self) -> None:
        self._patiently(self._storage.check)

    def read(self, key: str) -> bytes:
        return self._patiently(lambda: self._storage.read(key))

    def write(self, key: str, data: bytes) -> None:
        self._patiently(lambda: self._storage.write(key, data))

    def create(self, key: str, data: bytes) -> bool:
        tries = 0

        def create() -> bool:
            nonlocal tries
            tries += 1
            # An earlier try may have won although its answer was lost.
            return self._storage.create(key, data) or (tries > 1 and self._storage.read(key) == data)

        return self._patiently(create)

    def exists(self, key: str) -> bool:
        return self._patiently(lambda: self._storage.exists(key))

    def list(self, prefix: str = "") -> list[str]:
        return self._patiently(lambda: self._storage.list(prefix))

    def delete(self, key: str) -> None:
        self._patiently(lambda: self._storage.delete(key))

    def checksum(self, key: str) -> Checksum:
        return self._patiently(lambda: self._storage.checksum(key))

    def local_path(self, key: str) -> Path | None:
        return self._storage.local_path(key)

    def upload_folder(self, folder: Path, prefix: str) -> None:
        self._patiently(lambda: self._storage.upload_folder(folder, prefix))

    def download(self, key: str, path: Path) -> None:
        self._patiently(lambda: self._storage.download(key, path))

    def download_folder(self, prefix: str, folder: Path) -> None:
        self._patiently(lambda: self._storage.download_folder(prefix, folder))

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline, pause = time.monotonic() + self._patience_s, _PAUSE_S
        while True:
            try:
                return call()
            except StorageError as error:
                if not error.infrastructure or time.monotonic() + pause > deadline:
                    raise
                log.warning("storage fails and is tried again: %s: %s", error.reason, error.message)
            time.sleep(pause)
            pause = min(2.0 * pause, _MAX_PAUSE_S)
