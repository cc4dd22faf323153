"""Data sets in storage: one JSONL file a split, images by digest, and a manifest that is written last.

    datasets/<name>/manifest-0003.json   splits with file, count, digest and origin; the highest number counts
    datasets/<name>/<split>.jsonl        records (`vigorl_lib.data.records`)
    datasets/<name>/<chains>.parquet     demonstration chains, where the data set has some

A split that the manifest does not name does not exist. Splits share no example. Any number of processes may add to
a data set: a manifest is never changed, and of those who would write the same next one exactly one does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from vigorl_lib.data.chains import encode_chains, read_chains
from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.data.records import check_version, example_to_record, record_to_example
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.image import digest
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

VERSION = 1
ROOT = "datasets"
_MANIFEST = "manifest-"


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
    sha256 = digest(data)

    def add(manifest: Manifest) -> bool:
        old = manifest.splits.get(split)
        if old is not None and old.sha256 == sha256:
            return False
        if old is not None:
            raise _exists(name, split, old)
        _check_apart(storage, manifest, split, ids)
        part = Part(f"{split}.jsonl", len(lines), sha256, created_from or {})
        storage.write(_key(name, part.file), data)
        manifest.splits[split] = part
        return True

    _update(storage, name, add)


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
    examples: list[Example] = []
    for where, line in split_lines(storage, name, split):
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
    """Write demonstration chains that belong to a data set; their images must be in the image store already.

    The same again changes nothing. Raises DataError (DATASET_EXISTS for others under the name).
    """
    data, count = encode_chains(chains, split=chains_name)
    sha256 = digest(data)

    def add(manifest: Manifest) -> bool:
        old = manifest.chains.get(chains_name)
        if old is not None and old.sha256 == sha256:
            return False
        if old is not None:
            raise _exists(name, chains_name, old)
        part = Part(f"{chains_name}.parquet", count, sha256, created_from or {})
        storage.write(_key(name, part.file), data)
        manifest.chains[chains_name] = part
        return True

    _update(storage, name, add)


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


def example_ids(storage: Storage, name: str, split: str) -> set[str]:
    """Ids of a split's examples."""
    return {parse_line(line, where).text("id") for where, line in split_lines(storage, name, split)}


def read_manifest(storage: Storage, name: str) -> Manifest:
    """Raises DataError (DATASET_UNKNOWN) with the names that there are."""
    manifest = find_manifest(storage, name)
    if manifest is None:
        known = sorted({key.split("/")[1] for key in storage.list(f"{ROOT}/") if f"/{_MANIFEST}" in key})
        raise DataError(
            f"no data set {name!r} in {storage.uri}; found: {', '.join(known) or 'none'}",
            reason="DATASET_UNKNOWN",
            dataset=name,
        )
    return manifest


def find_manifest(storage: Storage, name: str) -> Manifest | None:
    """The manifest, None where there is no such data set (yet)."""
    return _newest(storage, name)[1]


def _newest(storage: Storage, name: str) -> tuple[int, Manifest | None]:
    """Number and content of the manifest that counts; 0 where there is none."""
    lead = _key(name, _MANIFEST)
    keys = [key for key in storage.list(lead) if re.fullmatch(r"\d+\.json", key.removeprefix(lead))]
    if not keys:
        return 0, None
    fields = parse_line(storage.read(keys[-1]), keys[-1])
    check_version(fields, VERSION)
    manifest = Manifest(fields.text("name"), _parts(fields, "splits"), _parts(fields, "chains"))
    return int(keys[-1].removeprefix(lead).removesuffix(".json")), manifest


def _update(storage: Storage, name: str, add: Callable[[Manifest], bool]) -> None:
    """Write the next manifest, as `add` makes it of the newest; again with a newer one where another was first.

    `add` says whether there is anything to write.
    """
    while True:
        number, manifest = _newest(storage, name)
        manifest = manifest or Manifest(name)
        if not add(manifest):
            return
        document = {"version": VERSION, **asdict(manifest)}
        data = json.dumps(document, indent=1, sort_keys=True).encode()
        if storage.create(_key(name, f"{_MANIFEST}{number + 1:04d}.json"), data):
            return


def _parts(fields: Fields, name: str) -> dict[str, Part]:
    parts = fields.nested(name)
    return {
        key: Part(part.text("file"), part.integer("count"), part.text("sha256"), part.nested("created_from").values)
        for key in parts.values
        for part in [parts.nested(key)]
    }


def split_lines(storage: Storage, name: str, split: str) -> Iterator[tuple[str, bytes]]:
    """`key:line` and text of every record of a split; the digest is checked. Raises as `read_dataset`."""
    manifest = read_manifest(storage, name)
    part = manifest.splits.get(split)
    if part is None:
        raise _unknown(name, "split", split, manifest.splits)
    key = _key(name, part.file)
    data = storage.read(key)
    _check(key, digest(data), part)
    return numbered_lines(data, key)


def _check_apart(storage: Storage, manifest: Manifest, split: str, ids: set[str]) -> None:
    for other in manifest.splits:
        shared = ids & example_ids(storage, manifest.name, other)
        if shared:
            raise DataError(
                f"{manifest.name}: the splits {other!r} and {split!r} share the id {min(shared)!r}; an example is in "
                "one split",
                reason="DUPLICATE_ID",
            )


def _exists(name: str, part: str, old: Part) -> DataError:
    return DataError(
        f"{name}/{part} exists with other content ({old.count} records); "
        "write under another name or delete the data set first",
        reason="DATASET_EXISTS",
        dataset=name,
    )


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
