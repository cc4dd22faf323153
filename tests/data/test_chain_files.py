"""Chains of other tools become trajectories to train on and questions to measure, and go out as they came."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage
from PIL import ImageChops

from tests.pictures import encoded
from vigorl_lib.data.datasets import read_dataset, read_dataset_chains
from vigorl_lib.data.exporters import answer_text, export_reference_chains
from vigorl_lib.data.importers import Imported, Source, import_chains
from vigorl_lib.domain.example import AnswerKind
from vigorl_lib.domain.geometry import Box, Point, Size
from vigorl_lib.domain.grammar import Answer, Zoom
from vigorl_lib.domain.trajectory import Origin, StopReason
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore

CALL = '<tool_call>\n{"name": "search_coordinate", "arguments": {"coordinate": [9, 8]}}\n</tool_call>'
SINGLE = "<think>\nLook at (3, 4). Then at (5, 6).\n</think>\n<answer> tea </answer>"
SEVERAL = [
    ("system", "Zoom."),
    ("user", "<image>\nWhat is it?"),
    ("assistant", f"<think> Let me look. </think>\n{CALL}"),
    ("user", "<observation>\nHere is the crop:\n<image>\n</observation>"),
    ("assistant", "<think> It is tea. </think>\n<answer> tea </answer>"),
]


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def record(**more: Any) -> dict[str, Any]:
    messages = [message("system", "Look."), message("user", "<image>\nWhat is it?"), message("assistant", SINGLE)]
    return {"id": "0_0", "metadata": {}, "messages": messages, "images": ["a.png"], "gt_answer": "tea", **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(40, 30, "PNG", 90))
    (folder / "crop.png").write_bytes(encoded(16, 16, "PNG", 180))
    return folder


def bring(storage: Storage, folder: Path, records: list[dict[str, Any]], name: str = "mine") -> tuple[int, Imported]:
    (folder / "chains.json").write_text(json.dumps(records))
    return import_chains(storage, Source(folder / "chains.json", "c"), name, "train")


def test_a_chain_becomes_a_demonstration_and_its_question(storage: Storage, folder: Path) -> None:
    count, found = bring(storage, folder, [record(), record(id="0_1")])
    chain, other = read_dataset_chains(storage, "mine", "train")
    (example,) = found.examples
    assert (count, chain.example_id, other.example_id) == (2, example.example_id, example.example_id)
    assert (example.question, example.truth.answer) == ("What is it?", "tea")
    assert read_dataset(storage, ImageStore(storage), "mine", "train") == [example]
    assert [segment.origin for segment in chain.segments] == [Origin.PROMPT, Origin.DEMONSTRATION]
    assert (chain.segments[1].trained, chain.segments[1].text) == (True, SINGLE)
    assert (chain.mode, chain.stop, chain.model_size) == ("single_turn", StopReason.ANSWERED, Size(40, 30))
    assert chain.turns[0].turn.points == (Point(3, 4), Point(5, 6))
    assert chain.turns[0].turn.action == Answer("tea")


def test_a_gold_box_asks_for_a_point(storage: Storage, folder: Path) -> None:
    _, found = bring(storage, folder, [record(gt_answer="(1, 2, 50, 9)")])
    assert (found.examples[0].truth.kind, found.examples[0].truth.box) == (AnswerKind.POINT, Box(1, 2, 40, 9))


def test_turns_with_crops_are_read_from_parquet(storage: Storage, folder: Path) -> None:
    row = {"messages": [message(*said) for said in SEVERAL], "images": ["a.png", "crop.png"]}
    pq.write_table(pa.Table.from_pylist([row]), folder / "several.parquet")
    import_chains(storage, Source(folder / "several.parquet", "c"), "mine", "train")
    (chain,) = read_dataset_chains(storage, "mine", "train")
    assert chain.mode == "multi_turn"
    assert [segment.trained for segment in chain.segments] == [False, True, False, True]
    first, last = chain.turns
    assert (first.turn.action, last.turn.action) == (Zoom(Point(9, 8)), Answer("tea"))
    assert first.crop_image == chain.segments[2].images[0]
    assert (first.crop, last.crop_image) == (None, None)


def test_the_other_spelling_of_sharegpt_is_read(storage: Storage, folder: Path) -> None:
    said = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Tea."}]
    bring(storage, folder, [{"conversations": said, "system": "Look.", "images": ["a.png"]}])
    (chain,) = read_dataset_chains(storage, "mine", "train")
    (example,) = read_dataset(storage, ImageStore(storage), "mine", "train")
    assert [message.text for message in chain.segments[0].messages] == ["Look.", "What?"]
    assert (example.question, example.truth.answer) == ("What?", "Tea.")


def test_chains_go_out_as_they_came(storage: Storage, folder: Path, tmp_path: Path) -> None:
    several = [message(*said) for said in SEVERAL]
    records = [record(), record(id="0_1", gt_answer="(1, 2, 30, 9)")]
    records.append(record(id="1_0", messages=several, images=["a.png", "crop.png"]))
    bring(storage, folder, records)
    chains = read_dataset_chains(storage, "mine", "train")
    examples = read_dataset(storage, ImageStore(storage), "mine", "train")
    target = open_storage(str(tmp_path / "out"))
    answers = {example.example_id: answer_text(example) for example in examples}
    written, left_out = export_reference_chains(storage, chains, answers, target, "train")
    assert (written, left_out) == (["train.json", "train_multiturn.parquet"], 0)
    back = json.loads(target.read("train.json"))
    assert [{**one, "images": []} for one in back] == [{**one, "images": []} for one in records[:2]]
    (row,) = pq.read_table(tmp_path / "out" / "train_multiturn.parquet").to_pylist()
    assert (list(row), row["messages"]) == (["messages", "images"], several)
    for name, original in zip((*back[0]["images"], *row["images"]), ("a.png", "a.png", "crop.png"), strict=True):
        there, here = (
            PILImage.open(io.BytesIO(data)).convert("RGB")
            for data in (target.read(name), (folder / original).read_bytes())
        )
        assert ImageChops.difference(there, here).getbbox() is None
    again = import_chains(storage, Source(tmp_path / "out" / "train.json", "c"), "again", "train")
    assert again[0] == 2


@pytest.mark.parametrize(
    ("more", "message_"),
    [
        ({"images": []}, "more <image> in the texts"),
        ({"images": ["a.png", "crop.png"]}, "found 1 more"),
        ({"images": ["none.png"]}, "cannot read the image"),
        ({"messages": [message("user", "<image>?")]}, "ends with the assistant"),
        ({"messages": [message("user", "?"), message("assistant", "x")], "images": []}, "expected one in front"),
        ({"messages": [message("narrator", "?")]}, "role: expected one of"),
    ],
)
def test_a_wrong_chain_is_told(storage: Storage, folder: Path, more: dict[str, Any], message_: str) -> None:
    with pytest.raises(DataError, match=rf"^chains\.json:2: .*{message_}"):
        bring(storage, folder, [record(), record(id="0_1", **more)])
    assert storage.list("datasets/") == []


def test_an_id_that_is_used_twice_is_told(storage: Storage, folder: Path) -> None:
    with pytest.raises(DataError, match="'0_0' is used before"):
        bring(storage, folder, [record(), record()])
