"""Commit markers: a folder of objects counts only once its `COMMITTED` manifest is there, written last.

The manifest lists every object under the prefix with its size and SHA-256, as read back from storage,
and carries the writer's own `meta`. Readers trust nothing that has no marker.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vigorl_lib.errors import CorruptObject, ObjectNotFound, StorageError
from vigorl_lib.storage.base import Checksum, Storage, checksum_stream

MARKER = "COMMITTED"
_VERSION = 1


def commit(storage: Storage, prefix: str, meta: dict[str, Any]) -> None:
    """Mark everything under `prefix/` as complete.

    Doing it again with the same objects and meta changes nothing; with others it raises StorageError
    (COMMIT_CONFLICT), because a reader may already rely on the first.
    """
    keys = [key for key in storage.list(f"{prefix}/") if key != f"{prefix}/{MARKER}"]
    if not keys:
        raise StorageError(f"nothing to commit under {prefix}/", reason="COMMIT_EMPTY", infrastructure=False)
    objects = {}
    for key in keys:
        checksum = storage.checksum(key)
        objects[key.removeprefix(f"{prefix}/")] = {"size": checksum.size, "sha256": checksum.sha256}
    manifest = {"version": _VERSION, "meta": meta, "objects": objects}
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    if not storage.create(f"{prefix}/{MARKER}", data) and storage.read(f"{prefix}/{MARKER}") != data:
        raise StorageError(
            f"{storage.uri}: {prefix} is committed already, with other content; delete it or write to another place",
            reason="COMMIT_CONFLICT",
            infrastructure=False,
            prefix=prefix,
        )


def committed(storage: Storage, prefix: str) -> dict[str, Any] | None:
    """The `meta` of a committed folder, None where there is no marker. Contents are not checked."""
    try:
        return _meta(_manifest(storage, prefix))
    except ObjectNotFound:
        return None


def committed_objects(storage: Storage, prefix: str) -> dict[str, Checksum]:
    """What a committed folder's manifest says of each object, by key below `prefix/`. Raises ObjectNotFound
    (NOT_COMMITTED), CorruptObject."""
    objects = _manifest(storage, prefix)["objects"]
    return {name: Checksum(entry["size"], entry["sha256"]) for name, entry in objects.items()}


def verify(storage: Storage, prefix: str) -> dict[str, Any]:
    """The `meta` of a committed folder whose objects all have the size and digest that its manifest says.

    Raises ObjectNotFound (NOT_COMMITTED, OBJECT_NOT_FOUND), CorruptObject.
    """
    manifest = _manifest(storage, prefix)
    for name, expected in manifest["objects"].items():
        _compare(f"{prefix}/{name}", storage.checksum(f"{prefix}/{name}"), expected)
    return _meta(manifest)


def fetch(storage: Storage, prefix: str, folder: Path) -> dict[str, Any]:
    """Download a committed folder, check every file and return its `meta`; raises as `verify`."""
    manifest = _manifest(storage, prefix)
    storage.download_folder(prefix, folder)
    for name, expected in manifest["objects"].items():
        path = folder / name
        if not path.is_file():
            raise ObjectNotFound(
                f"no object {prefix}/{name} in {storage.uri}", reason="OBJECT_NOT_FOUND", key=f"{prefix}/{name}"
            )
        with path.open("rb") as stream:
            _compare(f"{prefix}/{name}", checksum_stream(stream), expected)
    return _meta(manifest)


def discard(storage: Storage, prefix: str) -> None:
    """Delete everything under `prefix/`, the marker first, so that no reader trusts what is half gone."""
    storage.delete(f"{prefix}/{MARKER}")
    for key in storage.list(f"{prefix}/"):
        storage.delete(key)


def _manifest(storage: Storage, prefix: str) -> dict[str, Any]:
    try:
        data = storage.read(f"{prefix}/{MARKER}")
    except ObjectNotFound:
        raise ObjectNotFound(
            f"{storage.uri}: {prefix} has no {MARKER} marker: it is missing or was never finished",
            reason="NOT_COMMITTED",
            prefix=prefix,
        ) from None
    try:
        manifest = json.loads(data)
        known = manifest["version"] == _VERSION and isinstance(manifest["objects"], dict)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise CorruptObject(
            f"{storage.uri}: {prefix}/{MARKER} is no manifest of version {_VERSION}",
            reason="MANIFEST_UNREADABLE",
            prefix=prefix,
        )
    assert isinstance(manifest, dict)
    return manifest


def _meta(manifest: dict[str, Any]) -> dict[str, Any]:
    meta = manifest["meta"]
    assert isinstance(meta, dict)
    return meta


def _compare(key: str, found: Checksum, expected: dict[str, Any]) -> None:
    if (found.size, found.sha256) != (expected["size"], expected["sha256"]):
        raise CorruptObject(
            f"{key}: expected {expected['size']} bytes with SHA-256 {expected['sha256']}, "
            f"found {found.size} bytes with {found.sha256}",
            reason="OBJECT_CORRUPT",
            key=key,
        )
