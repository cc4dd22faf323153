"""Chains as LLaMA-Factory reads them: sharegpt files with images beside them, and their `dataset_info.json`.

`<prefix>/<split>.json` is an array of objects with `messages` (`role`, `content`; one `<image>` in the text for each
image), `images` (paths relative to the folder), `id` and `metadata`. Give LLaMA-Factory the folder as `dataset_dir`
and `media_dir`, and the data sets' names `vigorl_<split>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vigorl_lib.data.chain_export import Exported, ImageFiles, messages, tellable_splits
from vigorl_lib.domain.trajectory import Message, Trajectory
from vigorl_lib.domain.wire import IMAGE_PLACEHOLDER
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

MEDIA = (IMAGE_PLACEHOLDER, "<video>", "<audio>")
"""What the format counts as media wherever it stands."""


def export_sharegpt(
    storage: Storage, images: ImageStore, prefix: str, chains: Mapping[str, Sequence[Trajectory]]
) -> Exported:
    """Write chains by split. Raises DataError (PLACEHOLDER_IN_TEXT), ObjectNotFound, CorruptObject."""
    files = ImageFiles(storage, images, prefix)
    registry: dict[str, Any] = {}
    told, exported = tellable_splits(chains)
    for split, part in told.items():
        records = [_record(chain, files) for chain in part]
        storage.write(f"{prefix}/{split}.json", json.dumps(records, ensure_ascii=False, indent=1).encode())
        registry[f"vigorl_{split}"] = _entry(f"{split}.json")
    storage.write(f"{prefix}/dataset_info.json", json.dumps(registry, indent=2).encode())
    return exported


def _record(chain: Trajectory, files: ImageFiles) -> dict[str, Any]:
    return {
        "id": chain.trajectory_id,
        "metadata": {"example_id": chain.example_id, "mode": chain.mode, "policy": chain.policy},
        "messages": [{"role": message.role.value, "content": _content(message)} for message in messages(chain)],
        "images": files.names(chain),
    }


def _content(message: Message) -> str:
    if found := [name for name in MEDIA if name in message.text]:
        raise DataError(
            f"the text {message.text[:60]!r} holds {found[0]} itself, which this format counts as media; "
            "take it out of the question",
            reason="PLACEHOLDER_IN_TEXT",
        )
    return "".join(part if isinstance(part, str) else IMAGE_PLACEHOLDER for part in message.parts)


def _entry(file_name: str) -> dict[str, Any]:
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
