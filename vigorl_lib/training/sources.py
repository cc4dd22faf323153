"""Where SFT's demonstration chains come from: Parquet, JSONL, and conversations of other tools (sharegpt).

What is read has no pixels: images are named by digest. Those of conversations are files beside them, and are put
into the run's image store on the way, so that from there on all chains are alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache

from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.conversations import is_conversation, read_conversation
from vigorl_lib.data.fields import Fields, numbered_lines, parse_line
from vigorl_lib.data.trajectory_records import record_to_trajectory
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import DataError
from vigorl_lib.models.weights import open_parent
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.training.config import ChainSource
from vigorl_lib.training.learner import resolve_uri


def read_source(storage: Storage, source: ChainSource) -> list[Trajectory]:
    """Chains of a source. Raises DataError (CHAINS_MISSING, RECORD_INVALID), ObjectNotFound, CorruptObject."""
    where, key = storage, source.chains
    if resolve_uri(storage, key) == key:
        where, key = open_parent(key)
    found = read_chains(where, key) if not key.endswith((".json", ".jsonl")) else _read_objects(where, key, storage)
    chains = [chain for chain in found if not source.modes or chain.mode in source.modes]
    if not chains:
        wanted = " or ".join(source.modes) or "any mode"
        raise DataError(f"{source.chains}: expected chains of {wanted}, found none", reason="CHAINS_MISSING")
    return chains[: source.limit or None]


def _read_objects(where: Storage, key: str, storage: Storage) -> list[Trajectory]:
    """Chains of a file of JSON objects, each a trajectory's record or a conversation."""
    store = ImageStore(storage)
    folder = key.rpartition("/")[0]

    @cache
    def image(path: str) -> Image:
        return store.put(where.read(f"{folder}/{path}".lstrip("/"))).without_data()

    return [
        read_conversation(fields, image)
        if is_conversation(fields)
        else record_to_trajectory(fields.values, where=fields.where)
        for fields in _objects(where.read(key), key)
    ]


def _objects(data: bytes, key: str) -> Iterator[Fields]:
    """The lines of JSONL, or the items of one JSON array."""
    if key.endswith(".jsonl"):
        for place, line in numbered_lines(data, key):
            yield parse_line(line, place)
        return
    try:
        items = json.loads(data)
    except ValueError as error:
        raise DataError(f"{key}: expected JSON: {error}", reason="RECORD_INVALID", where=key) from None
    if not isinstance(items, list):
        raise DataError(f"{key}: expected an array of conversations", reason="RECORD_INVALID", where=key)
    for number, item in enumerate(items):
        yield Fields(item, f"{key}[{number}]")
