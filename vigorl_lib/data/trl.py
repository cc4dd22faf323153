"""Chains in the conversational format that TRL's trainers read: `messages` and `images`, as an image folder.

`<prefix>/<split>/metadata.jsonl` has one chain a line; `datasets.load_dataset("imagefolder", data_dir=<prefix>)` turns
its `file_names` into the column `images`. A message's `content` is a list of `{"type": "text", "text": …}` and
`{"type": "image", "text": null}`, in order; every entry has both keys, so that all rows are of one type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vigorl_lib.data.chain_export import Exported, ImageFiles, messages, tellable_splits
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore


def export_trl(
    storage: Storage, images: ImageStore, prefix: str, chains: Mapping[str, Sequence[Trajectory]]
) -> Exported:
    """Write chains by split. Raises ObjectNotFound, CorruptObject."""
    told, exported = tellable_splits(chains)
    for split, part in told.items():
        files = ImageFiles(storage, images, f"{prefix}/{split}")
        lines = [json.dumps(_record(chain, files), ensure_ascii=False) for chain in part]
        storage.write(f"{prefix}/{split}/metadata.jsonl", "".join(f"{line}\n" for line in lines).encode())
    return exported


def _record(chain: Trajectory, files: ImageFiles) -> dict[str, Any]:
    return {
        "file_names": files.names(chain),
        "messages": [
            {"role": message.role.value, "content": [_part(part) for part in message.parts]}
            for message in messages(chain)
        ],
        "id": chain.trajectory_id,
        "example_id": chain.example_id,
        "mode": chain.mode,
    }


def _part(part: str | Image) -> dict[str, str | None]:
    return {"type": "image", "text": None} if isinstance(part, Image) else {"type": "text", "text": part}
