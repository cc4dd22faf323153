"""Records say everything and come back equal; what is wrong in one is told with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from tests.data.strategies import examples, trajectories
from tests.pictures import encoded
from vigorl_lib.data.chains import read_chains, write_chains
from vigorl_lib.data.records import example_to_record, record_to_example
from vigorl_lib.data.trajectory_records import record_to_trajectory, stored_trajectory, trajectory_to_record
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Frame, Size
from vigorl_lib.domain.grammar import Answer, Turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore, probe

RECORD: dict[str, Any] = {
    "id": "a",
    "question": "What is it?",
    "answer": "tea",
    "images": [{"sha256": "0" * 64, "media_type": "image/png", "width": 40, "height": 30}],
}


def through_json(record: dict[str, Any]) -> Any:
    return json.loads(json.dumps(record, allow_nan=False))


def all_images(trajectory: Trajectory) -> list[Image]:
    found = [image for segment in trajectory.segments for image in segment.images]
    found += [span.image for segment in trajectory.segments for span in segment.image_spans]
    return found + [turn.crop_image for turn in trajectory.turns if turn.crop_image]


@given(examples())
def test_an_example_comes_back_equal(example: Example) -> None:
    back = record_to_example(through_json(example_to_record(example)))
    assert back == example
    assert [(i.media_type, i.size) for i in back.images] == [(i.media_type, i.size) for i in example.images]


@settings(max_examples=150)
@given(trajectories)
def test_a_trajectory_comes_back_equal(trajectory: Trajectory) -> None:
    back = record_to_trajectory(through_json(trajectory_to_record(trajectory)))
    assert back == trajectory
    assert trajectory_to_record(back) == trajectory_to_record(trajectory)
    assert {i.sha256 for i in all_images(back)} == {i.sha256 for i in all_images(trajectory)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, r"f:3: the field 'question' is missing; expected text"),
        ({"question": " "}, "question: expected some text"),
        ({"id": 7}, "id: expected text, found 7"),
        ({"imgs": []}, "unknown field 'imgs'; did you mean 'images'"),
        ({"images": []}, "images: expected at least one"),
        ({"images": ["a.png"]}, r"images\[0\]: expected a JSON object, found \"a.png\""),
        ({"kind": "choise"}, "kind: expected one of string, choice, point, action"),
        ({"kind": "choice", "choices": ["milk"]}, "answer: expected one of the choices"),
        ({"kind": "point"}, "the field 'box' is missing"),
        ({"box": [0, 0, 41, 30]}, r"box: expected .* \(40x30\), found \[0, 0, 41, 30\]"),
        ({"box": [5, 0, 5, 30]}, "box: expected"),
        ({"box": [0, 0, 1]}, "box: expected 4 numbers"),
        ({"box": [0, 0, True, 4]}, "box: expected 4 numbers"),
        ({"tags": {"size": 3}}, "tags: expected texts"),
        ({"version": 2}, "expected a record of version 1 or before, found 2"),
    ],
)
def test_a_wrong_example_is_told_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        record_to_example({**RECORD, **change}, where="f:3")


def test_a_question_for_a_point_needs_no_answer_text() -> None:
    record = {**RECORD, "kind": "point", "box": [1, 2, 3, 4], "answer": None}
    assert record_to_example(record).truth.box == Box(1, 2, 3, 4)


def test_truth_in_another_frame_is_not_written() -> None:
    truth = GroundTruth("x", evidence=(Box(0, 0, 1, 1, Frame.MODEL),))
    image = Image("0" * 64, "image/png", Size(4, 4))
    with pytest.raises(DataError) as caught:
        example_to_record(Example("a", "q", (image,), truth))
    assert caught.value.reason == "FRAME_MISMATCH"


def chain(name: str, thought: str, image: Image) -> Trajectory:
    text = f"<think> {thought} </think>\n<answer> tea </answer>"
    return Trajectory(
        trajectory_id=name,
        example_id="a",
        mode="single_turn",
        policy="teacher",
        segments=(
            Segment(Origin.PROMPT, (Message(Role.USER, (image, "\nWhat is it?")),)),
            Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (text,)),), trained=True),
        ),
        turns=(TurnRecord(Turn(thought, (), Answer("tea")), text, "end_of_turn"),),
        stop=StopReason.ANSWERED,
        reward=1.0,
    )


def some_image(store: ImageStore) -> Image:
    return store.put(encoded(6, 4))


def test_a_newer_trajectory_with_more_fields_is_still_read(tmp_path: Path) -> None:
    original = chain("a", "It is tea.", some_image(ImageStore(FolderStorage(tmp_path))))
    record = trajectory_to_record(original)
    record["temperature"] = 0.5
    record["segments"][0]["note"] = "later"
    assert record_to_trajectory(record) == original


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stop",), "tired", "stop: expected one of answered"),
        (("segments", 0, "origin"), "nobody", r"segments\[0\]: origin: expected one of prompt"),
        (("segments", 1, "token_ids"), [1, "2"], r"segments\[1\]: token_ids: expected whole numbers"),
        (("segments", 1, "logprobs"), [0.5], r"segments\[1\]: expected one log-prob a token, found 1 for 0"),
        (("images",), [], "refers to the image .* not in the record's table"),
        (("turns", 0, "action"), {"type": "jump"}, r"turns\[0\]: action: type: expected continue"),
        (("version",), 2, "read it with a newer release"),
    ],
)
def test_a_wrong_trajectory_is_told_with_its_place(
    tmp_path: Path, path: tuple[Any, ...], value: Any, message: str
) -> None:
    record = trajectory_to_record(chain("a", "It is tea.", some_image(ImageStore(FolderStorage(tmp_path)))))
    node: Any = record
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(DataError, match=message):
        record_to_trajectory(record, where="f:1")


def test_a_stored_trajectory_is_read_with_its_pixels(tmp_path: Path) -> None:
    image = probe(encoded(9, 9))
    store = ImageStore(FolderStorage(tmp_path))
    record = stored_trajectory(chain("a", "It is tea.", image), store)
    back = record_to_trajectory(record, ImageStore(FolderStorage(tmp_path)))
    assert back.segments[0].images[0].data == image.data


def test_chains_come_back_from_parquet_with_their_columns(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    store = ImageStore(storage)
    image = some_image(store)
    chains = [chain("a/0", "It is tea.", image), chain("a/1", f"It is milk. {BACKTRACK_PHRASE} It is tea.", image)]
    assert write_chains(storage, "runs/r/chains/train.parquet", chains) == 2
    assert read_chains(storage, "runs/r/chains/train.parquet") == chains
    assert read_chains(storage, "runs/r/chains", store)[1].segments[0].images[0].data == store.get(image.sha256).data
    columns = pq.read_table(tmp_path / "runs/r/chains/train.parquet").drop(["record"]).to_pylist()
    assert columns[1] == {
        "id": "a/1",
        "example_id": "a",
        "mode": "single_turn",
        "policy": "teacher",
        "zooms": 0,
        "corrected": True,
        "split": "train",
    }


def test_equal_chains_give_equal_bytes_and_no_damage_goes_unseen(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    chains = [chain(f"a/{n}", "It is tea.", some_image(ImageStore(storage))) for n in range(20)]
    write_chains(storage, "one.parquet", chains)
    write_chains(storage, "two.parquet", iter(chains))
    data = storage.read("one.parquet")
    assert data == storage.read("two.parquet")
    column = pq.ParquetFile(tmp_path / "one.parquet").metadata.row_group(0).column(7)
    start, found = column.dictionary_page_offset, 0
    for place in range(start, start + column.total_compressed_size, 10):
        storage.write("one.parquet", data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            # A byte that nobody reads, such as a page's statistics, may change.
            assert read_chains(storage, "one.parquet") == chains
        except CorruptObject:
            found += 1
    assert found > 20


def test_no_chains_under_a_prefix_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_chains(FolderStorage(tmp_path), "nowhere")
    assert caught.value.reason == "CHAINS_MISSING"
