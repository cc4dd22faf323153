"""Weights that a learner publishes for the policies that it trains: versions, and which of them is wanted.

The desired state lives in storage: a version is written, its marker last, and only then `CURRENT` names it.
A replica that starts reads `CURRENT`; one that runs is told by the rollout producer. Reading and writing
tensors is `vigorl_lib.models.weights`, and torch is imported only to publish.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vigorl_lib.domain.image import digest
from vigorl_lib.storage import commit
from vigorl_lib.storage.current import CurrentWeights, read_current, write_current
from vigorl_lib.storage.layout import RunLayout

if TYPE_CHECKING:
    from torch import Tensor

    from vigorl_lib.storage.base import Storage

SHARD_BYTES = 4 << 30
"""A published file is at most this large: writing a version takes little disk and readers fetch side by side."""


def current_weights(layout: RunLayout) -> CurrentWeights | None:
    """The version that a run wants served, None before the first was published. Raises CorruptObject."""
    return read_current(layout.storage, layout.weights_current)


def publish_weights(layout: RunLayout, version: int, tensors: Mapping[str, Tensor], *, keep: int) -> None:
    """Write a version, make it the desired one, and delete all but the newest `keep`.

    A version that is not above the desired one is left alone: a learner that was killed repeats steps whose
    weights are out already.
    """
    storage, prefix = layout.storage, layout.weight_version(version)
    current = current_weights(layout)
    if current is not None and version <= current.version:
        return
    if commit.committed(storage, prefix) is None:
        commit.discard(storage, prefix)
        _upload(storage, prefix, tensors)
        commit.commit(storage, prefix, {"version": version})
    marker = digest(storage.read(f"{prefix}/{commit.MARKER}"))
    wanted = CurrentWeights(version, f"{storage.uri.rstrip('/')}/{prefix}", marker)
    write_current(storage, layout.weights_current, wanted)
    for old in published_versions(layout)[:-keep]:
        commit.discard(storage, layout.weight_version(old))


def _upload(storage: Storage, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors in files of at most `SHARD_BYTES` each (one tensor at least), one of them on disk at a time."""
    from vigorl_lib.models.weights import write_weights

    shards: list[list[str]] = []
    size = SHARD_BYTES
    for name, tensor in tensors.items():
        size += tensor.nbytes
        if not shards or size > SHARD_BYTES:
            shards.append([])
            size = tensor.nbytes
        shards[-1].append(name)
    for number, names in enumerate(shards, start=1):
        with tempfile.TemporaryDirectory() as temporary:
            path = write_weights({name: tensors[name] for name in names}, Path(temporary))
            if len(shards) > 1:
                path.rename(path.with_stem(f"{path.stem}-{number:05d}-of-{len(shards):05d}"))
            storage.upload_folder(Path(temporary), prefix)


def published_versions(layout: RunLayout) -> list[int]:
    """Versions with a marker, rising."""
    keys = layout.storage.list(f"{layout.weights}/")
    parts = [key.removeprefix(f"{layout.weights}/").split("/") for key in keys]
    return sorted(int(part[0]) for part in parts if len(part) == 2 and part[1] == commit.MARKER)
