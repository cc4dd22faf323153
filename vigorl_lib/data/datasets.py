"""Data sets in storage: one JSONL file a split, images by digest, and a manifest that is written last.

    datasets/<name>/manifest.json        splits with file, count, digest and origin
    datasets/<name>/<split>.jsonl        records (`vigorl_lib.data.records`)
    datasets/<name>/<chains>.parquet     demonstration chains, where the data set has some

A split that the manifest does not name does not exist. Splits share no example. One process at a time
writes to a data set.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from vigorl_lib.data.chains import read_chains, write_chains
from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.data.records import check_version, example_to_record, record_to_example
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.image import digest
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import CorruptObject, DataError, ObjectNotFound
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

VERSION = 1
ROOT = "datasets"


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a data set; `created_from` says how it was made, in the words of its maker."""

    file: str
    count: int
    sha256: str
    created_from: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a data set consists of: examples by split and chains by name."""

    name: str
    splits: dict[str, Part] = field(default_factory=dict)
    chains: dict[str, Part] = field(default_factory=dict)


def write_dataset(
    storage: Storage,
    images: ImageStore,
    name: str,
    split: str,
    examples: Iterable[Example],
    *,
    created_from: dict[str, Any] | None = None,
) -> None:
    """Write one split: images that carry bytes, then the records, then the manifest.

    The same again changes nothing. Raises DataError (DATASET_EXISTS for other content under the name,
    DUPLICATE_ID within the split or with another one).
    """
    manifest = find_manifest(storage, name) or Manifest(name)
    lines, ids = [], set[str]()
    for example in examples:
        if example.example_id in ids:
            raise DataError(f"{name}/{split}: the id {example.example_id!r} occurs twice", reason="DUPLICATE_ID")
        ids.add(example.example_id)
        for image in example.images:
            if image.data is not None:
                images.put(image.data, image.media_type)
        lines.append(json.dumps(example_to_record(example), ensure_ascii=False, separators=(",", ":")).encode())
    data = b"\n".join([*lines, b""])
    part = Part(f"{split}.jsonl", len(lines), digest(data), created_from or {})
    if _is_there(name, split, manifest.splits.get(split), part):
        return
    for other in manifest.splits:
        shared = ids & example_ids(storage, name, other)
        if shared:
            raise DataError(
                f"{name}: the splits {other!r} and {split!r} share the id {min(shared)!r}; an example is in one split",
                reason="DUPLICATE_ID",
            )
    storage.write(_key(name, part.file), data)
    manifest.splits[split] = part
    _write_manifest(storage, manifest)


def read_dataset(
    storage: Storage,
    images: ImageStore,
    name: str,
    split: str,
    limit: int | None = None,
    *,
    with_images: bool = True,
) -> list[Example]:
    """The first `limit` examples of a split, or all; digests are checked.

    Without `with_images` the examples hold digests only, for data sets that do not fit in memory
    (`ImageStore.load` gets the bytes of one). Raises DataError (DATASET_UNKNOWN, SPLIT_UNKNOWN,
    RECORD_INVALID), CorruptObject, ObjectNotFound.
    """
    key, data = _read_split(storage, name, split)
    examples: list[Example] = []
    for where, line in numbered_lines(data, key):
        if limit is not None and len(examples) >= limit:
            break
        values = parse_line(line, where).values
        examples.append(record_to_example(values, images if with_images else None, where=where))
    return examples


def write_dataset_chains(
    storage: Storage,
    name: str,
    chains_name: str,
    chains: Iterable[Trajectory],
    *,
    created_from: dict[str, Any] | None = None,
) -> None:
    """Write demonstration chains that belong to a data set; their images must be in the image store already."""
    manifest = find_manifest(storage, name) or Manifest(name)
    file = f"{chains_name}.parquet"
    count = write_chains(storage, _key(name, file), chains, split=chains_name)
    checksum = storage.checksum(_key(name, file))
    manifest.chains[chains_name] = Part(file, count, checksum.sha256, created_from or {})
    _write_manifest(storage, manifest)


def read_dataset_chains(
    storage: Storage, name: str, chains_name: str, images: ImageStore | None = None
) -> list[Trajectory]:
    """Chains of a data set, with their images' bytes if a store is given; the digest is checked."""
    manifest = read_manifest(storage, name)
    part = manifest.chains.get(chains_name)
    if part is None:
        raise _unknown(name, "chains", chains_name, manifest.chains)
    key = _key(name, part.file)
    _check(key, storage.checksum(key).sha256, part)
    return read_chains(storage, key, images)


def chains_key(name: str, chains_name: str) -> str:
    """Key of a data set's chains, for whoever reads chains by key."""
    return _key(name, f"{chains_name}.parquet")


def example_ids(storage: Storage, name: str, split: str) -> set[str]:
    """Ids of a split's examples."""
    key, data = _read_split(storage, name, split)
    return {parse_line(line, where).text("id") for where, line in numbered_lines(data, key)}


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Raises DataError (DATASET_UNKNOWN) with the names that there are."""
    manifest = find_manifest(storage, name)
    if manifest is None:
        known = [key.split("/")[1] for key in storage.list(f"{ROOT}/") if key.endswith("/manifest.json")]
        raise DataError(
            f"no data set {name!r} in {storage.uri}; found: {', '.join(known) or 'none'}",
            reason="DATASET_UNKNOWN",
            dataset=name,
        )
    return manifest


def find_manifest(storage: Storage, name: str) -> Manifest | None:
    """The manifest, None where there is no such data set (yet)."""
    key = _key(name, "manifest.json")
    try:
        fields = parse_line(storage.read(key), key)
    except ObjectNotFound:
        return None
    check_version(fields, VERSION)
    return Manifest(fields.text("name"), _parts(fields, "splits"), _parts(fields, "chains"))


def _parts(fields: Fields, name: str) -> dict[str, Part]:
    parts = fields.nested(name)
    return {
        key: Part(part.text("file"), part.integer("count"), part.text("sha256"), part.nested("created_from").values)
        for key in parts.values
        for part in [parts.nested(key)]
    }


def _write_manifest(storage: Storage, manifest: Manifest) -> None:
    document = {"version": VERSION, **asdict(manifest)}
    storage.write(_key(manifest.name, "manifest.json"), json.dumps(document, indent=1, sort_keys=True).encode())


def _read_split(storage: Storage, name: str, split: str) -> tuple[str, bytes]:
    manifest = read_manifest(storage, name)
    part = manifest.splits.get(split)
    if part is None:
        raise _unknown(name, "split", split, manifest.splits)
    key = _key(name, part.file)
    data = storage.read(key)
    _check(key, digest(data), part)
    return key, data


def _is_there(name: str, split: str, old: Part | None, new: Part) -> bool:
    if old is None:
        return False
    if old.sha256 != new.sha256:
        raise DataError(
            f"{name}/{split} exists with other content ({old.count} examples); "
            "write under another name or delete the data set first",
            reason="DATASET_EXISTS",
            dataset=name,
        )
    return True


def _check(key: str, found: str, part: Part) -> None:
    if found != part.sha256:
        raise CorruptObject(
            f"{key}: expected SHA-256 {part.sha256} by the manifest, found {found}; write the data set again",
            reason="OBJECT_CORRUPT",
            key=key,
        )


def _unknown(name: str, what: str, wanted: str, known: Iterable[str]) -> DataError:
    return DataError(
        f"the data set {name!r} has no {what} {wanted!r}; found: {', '.join(sorted(known)) or 'none'}",
        reason=f"{what.upper()}_UNKNOWN",
        dataset=name,
    )


def _key(name: str, file: str) -> str:
    return f"{ROOT}/{name}/{file}"
