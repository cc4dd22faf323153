"""`weights/CURRENT`: which version of a run's weights every replica should hold.

The learner writes it after a version is complete, replicas and the rollout producer read it. What it
names is read and verified elsewhere (`vigorl_lib.storage.commit`, `vigorl_lib.models.weights`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from vigorl_lib.errors import CorruptObject, ObjectNotFound
from vigorl_lib.storage.base import Storage

CURRENT = "CURRENT"
"""Its name below a run's weights."""


@dataclass(frozen=True, slots=True)
class CurrentWeights:
    """What every replica should hold. `sha256` is that of the version's marker, which names all digests."""

    version: int
    uri: str
    sha256: str


def read_current(storage: Storage, key: str = CURRENT) -> CurrentWeights | None:
    """The desired version, None before the first was published. Raises CorruptObject (CURRENT_INVALID)."""
    try:
        data = storage.read(key)
    except ObjectNotFound:
        return None
    try:
        return CurrentWeights(**json.loads(data))
    except (ValueError, TypeError):
        raise CorruptObject(
            f"{storage.uri}: {key}: expected JSON with version, uri and sha256", reason="CURRENT_INVALID"
        ) from None


def check_marker(current: CurrentWeights, marker: bytes) -> None:
    """Raises CorruptObject unless these are the very weights that were published as wanted."""
    if hashlib.sha256(marker).hexdigest() != current.sha256:
        raise CorruptObject(
            f"{current.uri}: its marker is not the one that {CURRENT} names; was the version written again?",
            reason="OBJECT_CORRUPT",
            uri=current.uri,
        )


def write_current(storage: Storage, key: str, current: CurrentWeights) -> None:
    storage.write(key, json.dumps(asdict(current)).encode())
