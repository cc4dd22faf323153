"""Exports of chains: what other trainers read, loaded back by the rules that they document."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.json
import pytest
from PIL import Image as PILImage

from tests.search.support import scenes, searching, teacher
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.linearize import linearize_run
from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.data.sharegpt import export_sharegpt
from vigorl_lib.domain.trajectory import Message, Role, Trajectory
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

CHAINS = "runs/r/chains"
SPLITS = ("train", "validation")


@pytest.fixture
async def run(tmp_path: Path) -> tuple[Storage, dict[str, float]]:
    """A searched run whose chains are exported, those with untrained turns left out."""
    storage = await searched(tmp_path)
    return storage, linearize_run(recipe(storage), "c", ["sharegpt", "trl"])


async def searched(tmp_path: Path) -> Storage:
    storage = open_storage(str(tmp_path))
    images = ImageStore(storage)
    examples = scenes(images, 8)
    write_dataset(storage, images, "visual-search", "train", examples)
    policy = teacher(examples, tmp_path, distractor_rate=0.4, error_rate=0.2, unseen_error_rate=0.5)
    search = searching(policy, SearchConfig(simulations=3, dedup_radius_px=3), images=images)
    prefix = RunLayout(storage, "r").search()
    await search_dataset(
        examples, search, policy="t", storage=storage, prefix=prefix, on_progress=lambda progress: None
    )
    return storage


def recipe(storage: Storage, *more: str) -> Any:
    overrides = ("linearize.validation_share=0.4", "linearize.max_chains_per_example=6", "run_id=r", *more)
    return resolve("quickstart-search", (f"root={storage.uri}", *overrides))


def chains_of(storage: Storage, split: str) -> dict[str, Trajectory]:
    return {chain.trajectory_id: chain for chain in read_chains(storage, f"{CHAINS}/c-{split}.parquet")}


def spoken(chain: Trajectory) -> list[tuple[str, str, int]]:
    """Role, text and number of images of each message."""
    found = [message for segment in chain.segments for message in segment.messages]
    return [(message.role.value, message.text, len(message.images)) for message in found]


async def test_sharegpt_files_hold_what_their_registry_says(run: tuple[Storage, dict[str, float]]) -> None:
    storage, statistics = run
    folder = f"{CHAINS}/c-sharegpt"
    registry = json.loads(storage.read(f"{folder}/dataset_info.json"))
    assert set(registry) == {f"vigorl_{split}" for split in SPLITS}
    total = 0
    for split in SPLITS:
        entry = registry[f"vigorl_{split}"]
        assert entry["formatting"] == "sharegpt"
        columns, tags = entry["columns"], entry["tags"]
        originals = chains_of(storage, split)
        for record in json.loads(storage.read(f"{folder}/{entry['file_name']}")):
            messages, images = record[columns["messages"]], record[columns["images"]]
            roles = [message[tags["role_tag"]] for message in messages]
            # A system message, if any, first; then the user's and the assistant's in turn, the assistant's last.
            assert roles[0] == tags["system_tag"]
            assert roles[1:] == [tags["user_tag"], tags["assistant_tag"]] * (len(roles) // 2)
            contents = [message[tags["content_tag"]] for message in messages]
            assert sum(content.count("<image>") for content in contents) == len(images)
            chain = originals[record["id"]]
            assert [text.replace("<image>", "") for text in contents] == [text for _, text, _ in spoken(chain)]
            for name in images:
                assert PILImage.open(io.BytesIO(storage.read(f"{folder}/{name}"))).mode == "RGB"
            total += 1
    assert total == statistics["exported_sharegpt"] > 8
    assert statistics["not_exported_sharegpt"] > 0
    assert total + statistics["not_exported_sharegpt"] == statistics["chains"]


async def test_trl_folders_load_as_an_image_folder_with_conversations(run: tuple[Storage, dict[str, float]]) -> None:
    storage, statistics = run
    total, schemas = 0, []
    for split in SPLITS:
        folder = f"{CHAINS}/c-trl/{split}"
        # As the image folder's reader does: one Arrow table, whose `file_names` lie beside the metadata.
        table = pyarrow.json.read_json(io.BytesIO(storage.read(f"{folder}/metadata.jsonl")))
        schemas.append(table.schema)
        originals = chains_of(storage, split)
        for row in table.to_pylist():
            assert all(storage.exists(f"{folder}/{name}") for name in row["file_names"])
            chain = originals[row["id"]]
            told = []
            for message in row["messages"]:
                kinds = [part["type"] for part in message["content"]]
                assert set(kinds) <= {"text", "image"}
                assert [part["text"] is None for part in message["content"]] == [kind == "image" for kind in kinds]
                text = "".join(part["text"] or "" for part in message["content"])
                told.append((message["role"], text, kinds.count("image")))
            assert told == spoken(chain)
            assert sum(count for _, _, count in told) == len(row["file_names"])
            total += 1
    assert total == statistics["exported_trl"]
    assert schemas[0] == schemas[1]


async def test_an_image_is_one_file_of_the_size_that_its_points_are_made_for(
    run: tuple[Storage, dict[str, float]],
) -> None:
    storage, _ = run
    folder = f"{CHAINS}/c-sharegpt"
    records = [record for split in SPLITS for record in json.loads(storage.read(f"{folder}/{split}.json"))]
    chains = {key: chain for split in SPLITS for key, chain in chains_of(storage, split).items()}
    for record in records:
        size = chains[record["id"]].model_size
        assert size is not None
        view = PILImage.open(io.BytesIO(storage.read(f"{folder}/{record['images'][0]}")))
        assert view.size == (size.width, size.height)
    named = {name for record in records for name in record["images"]}
    assert {key.removeprefix(f"{folder}/") for key in storage.list(f"{folder}/images/")} == named
    first = {record["images"][0] for record in records}
    assert len(first) == len({chains[record["id"]].example_id for record in records})


async def test_the_way_astray_is_exported_only_if_it_is_to_be_learnt(run: tuple[Storage, dict[str, float]]) -> None:
    storage, before = run
    after = linearize_run(recipe(storage, "linearize.train_wrong_branch=true"), "all", ["sharegpt"])
    assert after["not_exported_sharegpt"] == 0
    assert after["exported_sharegpt"] == after["chains"] == before["chains"]


async def test_a_text_that_looks_like_an_image_is_refused(run: tuple[Storage, dict[str, float]]) -> None:
    storage, _ = run
    chain = next(iter(chains_of(storage, "train").values()))
    opening = chain.segments[0]
    asked = replace(opening, messages=(*opening.messages, Message(Role.USER, ("What is <image> here?",))))
    with pytest.raises(DataError, match="holds <image> itself"):
        export_sharegpt(storage, ImageStore(storage), "x", {"train": [replace(chain, segments=(asked,))]})


def test_an_unknown_format_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--export: expected some of sharegpt, trl, found alpaca"):
        linearize_run(resolve("quickstart-search", (f"root={tmp_path}",)), "c", ["alpaca"])


def test_the_published_codes_chains_are_made_and_exported_too(tmp_path: Path) -> None:
    storage = asyncio.run(searched(tmp_path))
    overrides = ("linearize.mode=reference", "linearize.crops_afterwards=true", "task.zoom.observation=sft")
    statistics = linearize_run(recipe(storage, *overrides), "c", ["sharegpt"])
    chains = [chain for split in SPLITS for chain in chains_of(storage, split).values()]
    modes = Counter(chain.mode for chain in chains)
    assert modes["single_turn"] == modes["multi_turn"] == statistics["chains_crops"] > 0
    assert statistics["exported_sharegpt"] == statistics["chains"] == len(chains)
    for chain in chains:
        if chain.mode == "multi_turn":
            assert len(chain.turns) == 1 + sum(record.crop_image is not None for record in chain.turns)
