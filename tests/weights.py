"""Weights that are wanted, as a learner says it."""

from __future__ import annotations

from vigorl_lib.domain.image import digest
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.current import CURRENT, CurrentWeights, write_current


def want(storage: Storage, name: str, version: int, key: str = CURRENT) -> None:
    """Let `CURRENT` name the committed folder `name`."""
    marker = digest(storage.read(f"{name}/{commit.MARKER}"))
    write_current(storage, key, CurrentWeights(version, f"{storage.uri.rstrip('/')}/{name}", marker))
