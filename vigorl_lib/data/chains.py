"""Chains to train on, as Parquet: a few plain columns to look at and filter by, and the whole record.

A chain is a trajectory whose assistant segments are demonstrations (or a rollout that is used as one).
Images are digests; their bytes are the image store's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

from vigorl_lib.data.trajectory_records import record_to_trajectory, trajectory_to_record
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

SUFFIX = ".parquet"


def write_chains(storage: Storage, key: str, chains: Iterable[Trajectory], *, split: str = "train") -> int:
    """Write chains to one Parquet file at `key` (`….parquet`) and return how many; `encode_chains` tells more."""
    if not key.endswith(SUFFIX):
        raise DataError(f"expected a key that ends with {SUFFIX}, found {key!r}", reason="CHAINS_KEY")
    data, count = encode_chains(chains, split=split)
    storage.write(key, data)
    return count


def encode_chains(chains: Iterable[Trajectory], *, split: str) -> tuple[bytes, int]:
    """Bytes of a Parquet file, and how many chains it holds; equal chains give equal bytes.

    Columns: `id`, `example_id`, `mode`, `policy`, `zooms`, `corrected` (a turn takes a step back), `split`,
    `record` (JSON).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(chain, split) for chain in chains]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("example_id", pa.string()),
            ("mode", pa.string()),
            ("policy", pa.string()),
            ("zooms", pa.int32()),
            ("corrected", pa.bool_()),
            ("split", pa.string()),
            ("record", pa.string()),
        ]
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue(), len(rows)


def read_chains(storage: Storage, key: str, images: ImageStore | None = None) -> list[Trajectory]:
    """Chains of one file, or of all files under a prefix in the order of their names; with bytes if `images` is given.

    Raises ObjectNotFound, CorruptObject, DataError (CHAINS_MISSING, RECORD_INVALID).
    """
    keys = [key] if key.endswith(SUFFIX) else [k for k in storage.list(f"{key}/") if k.endswith(SUFFIX)]
    if not keys:
        raise DataError(f"no {SUFFIX} file under {key}/ in {storage.uri}", reason="CHAINS_MISSING", key=key)
    return [chain for file in keys for chain in _read_file(storage, file, images)]


def _read_file(storage: Storage, key: str, images: ImageStore | None) -> Iterable[Trajectory]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = pa.BufferReader(storage.read(key))
    try:
        table = pq.read_table(data, columns=["record"], page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise CorruptObject(f"{storage.uri}: {key}: {error}", reason="OBJECT_CORRUPT", key=key) from error
    for row, text in enumerate(table.column("record").to_pylist()):
        yield record_to_trajectory(json.loads(text), images, where=f"{key}: row {row}")


def _row(chain: Trajectory, split: str) -> dict[str, object]:
    return {
        "id": chain.trajectory_id,
        "example_id": chain.example_id,
        "mode": chain.mode,
        "policy": chain.policy,
        "zooms": chain.zooms,
        "corrected": any(BACKTRACK_PHRASE in record.turn.thought for record in chain.turns),
        "split": split,
        "record": json.dumps(trajectory_to_record(chain), ensure_ascii=False, separators=(",", ":")),
    }
