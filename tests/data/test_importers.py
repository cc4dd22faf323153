"""A user's own files become a data set, or a message that says which line to mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pictures import encoded, huge_png
from vigorl_lib.data.datasets import read_dataset, read_manifest
from vigorl_lib.data.importers import import_folder
from vigorl_lib.domain.example import AnswerKind
from vigorl_lib.domain.geometry import Box, Size
from vigorl_lib.errors import DataError
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore

LINE: dict[str, Any] = {"id": "a", "image": "cup.png", "question": "What is in the cup?", "answer": "tea"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "user"
    (folder / "photos").mkdir(parents=True)
    (folder / "cup.png").write_bytes(encoded(40, 30))
    (folder / "photos" / "turned.jpg").write_bytes(encoded(40, 30, "JPEG", orientation=6))
    (folder / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    (folder / "cut.png").write_bytes(encoded(40, 30)[:20])
    return folder


def import_lines(storage: FolderStorage, folder: Path, *lines: dict[str, Any] | str) -> int:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "questions.jsonl").write_text("\n".join(texts) + "\n")
    return len(import_folder(storage, folder / "questions.jsonl", folder, "mine", "test"))


def test_questions_and_files_become_a_data_set(storage: FolderStorage, folder: Path) -> None:
    full = {
        "id": 17,
        "images": ["photos/turned.jpg", "cup.png"],
        "question": "Where is it?",
        "answer": "B",
        "kind": "choice",
        "choices": ["A", "B"],
        "box": [0, 10, 30, 40],
        "evidence": [[1, 2, 3, 4]],
        "tags": {"room": "kitchen"},
    }
    assert import_lines(storage, folder, LINE, "", full) == 2
    first, second = read_dataset(storage, ImageStore(storage), "mine", "test")
    assert (first.example_id, first.question, first.truth.answer) == ("a", "What is in the cup?", "tea")
    assert first.images[0].data == encoded(40, 30)
    assert (second.example_id, second.truth.kind, second.truth.choices) == ("17", AnswerKind.CHOICE, ("A", "B"))
    assert second.images[0].size == Size(30, 40)
    assert (second.truth.box, second.truth.evidence) == (Box(0, 10, 30, 40), (Box(1, 2, 3, 4),))
    assert second.tags == {"room": "kitchen"}
    assert read_manifest(storage, "mine").splits["test"].created_from["file"] == "questions.jsonl"


def test_importing_twice_changes_nothing(storage: FolderStorage, folder: Path) -> None:
    import_lines(storage, folder, LINE)
    before = storage.list()
    import_lines(storage, folder, LINE)
    assert storage.list() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected one JSON object"),
        ("[1]", "expected a JSON object, found"),
        ({**LINE, "image": "none.png"}, r"cannot read the image .*none\.png: No such file"),
        ({**LINE, "image": "cut.png"}, r"cut\.png: expected an image file"),
        ({**LINE, "image": "bomb.png"}, r"bomb\.png: expected an image of at most"),
        ({**LINE, "image": 3}, "image: expected text, found 3"),
        ({**LINE, "images": ["cup.png"]}, "either 'image' .* or 'images'"),
        ({**LINE, "image": None}, "either 'image' .* or 'images'"),
        ({**LINE, "anwser": "x"}, "unknown field 'anwser'; did you mean 'answer'"),
        ({**LINE, "answer": None}, "the field 'answer' is missing"),
        ({**LINE, "answer": " "}, "answer: expected some text, found none"),
        ({**LINE, "image": "photos/turned.jpg", "box": [0, 0, 40, 30]}, r"\(30x40\)"),
        ({**LINE, "id": "first"}, r"is used at questions\.jsonl:1 already"),
    ],
)
def test_a_wrong_line_is_told_with_file_and_number(
    storage: FolderStorage, folder: Path, line: dict[str, Any] | str, message: str
) -> None:
    with pytest.raises(DataError, match=rf"^questions\.jsonl:3: .*{message}") as caught:
        import_lines(storage, folder, {**LINE, "id": "first"}, {**LINE, "id": "second"}, line)
    assert caught.value.reason == "IMPORT_FAILED"
    assert "\n" not in caught.value.message
    assert storage.list("datasets/") == []


def test_all_wrong_lines_are_counted_and_placed(storage: FolderStorage, folder: Path) -> None:
    with pytest.raises(DataError, match=r"^questions\.jsonl:2: .* \(and 2 more: .*:4, .*:5\)$"):
        import_lines(storage, folder, LINE, "{", {**LINE, "id": "b"}, "3", {**LINE, "answer": 1})


def test_a_missing_and_an_empty_file_are_told(storage: FolderStorage, folder: Path) -> None:
    with pytest.raises(DataError, match="expected at least one line"):
        import_lines(storage, folder)
    with pytest.raises(DataError, match=r"cannot read .*nothing\.jsonl"):
        import_folder(storage, folder / "nothing.jsonl", folder, "mine", "test")
