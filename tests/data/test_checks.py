"""What is wrong with a data set is said line by line, of files as of storage; samples show where boxes are."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage

from tests.pictures import encoded, huge_png
from vigorl_lib.data.checks import Checked, check_dataset, check_source
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.data.importers import Source, import_chains
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Frame, Point, Size
from vigorl_lib.errors import DataError
from vigorl_lib.report.contact_sheet import render_contact_sheet
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore, image_key, probe


def examples(lead: str, *colors: int) -> list[Example]:
    return [
        Example(f"{lead}{color}", "How red?", (probe(encoded(20, 10, color=color)),), GroundTruth(str(color)))
        for color in colors
    ]


def put(storage: Storage, split: str, found: list[Example]) -> None:
    write_dataset(storage, ImageStore(storage), "mine", split, found)


def told(checked: Checked) -> list[tuple[str, str]]:
    return [(problem.metadata.get("where", ""), problem.reason) for problem in checked.problems]


def test_a_sound_data_set_has_no_problem(storage: Storage) -> None:
    put(storage, "train", examples("a", 1, 2, 3))
    put(storage, "test", examples("b", 4))
    seen: list[tuple[int, int]] = []
    checked = check_dataset(storage, "mine", samples=2, on_progress=lambda *counts: seen.append(counts))
    assert (checked.problems, checked.remarks, checked.examples, checked.images) == ([], [], 4, 4)
    assert seen == [(done, 4) for done in range(1, 5)]
    assert [image.data is not None for _, image in checked.samples] == [True, True]
    assert all(example.images[0] == image for example, image in checked.samples)


def test_samples_do_not_depend_on_the_order_of_rows(storage: Storage, tmp_path: Path) -> None:
    put(storage, "train", examples("a", 1, 2, 3, 4, 5))
    other = open_storage(str(tmp_path / "other"))
    put(other, "train", examples("a", 5, 3, 1, 2, 4))
    first, second = ({e.example_id for e, _ in check_dataset(s, "mine", samples=2).samples} for s in (storage, other))
    assert first == second


def test_images_that_two_splits_share_are_told_with_both_places(storage: Storage) -> None:
    put(storage, "train", examples("a", 1, 2))
    put(storage, "test", examples("b", 3, 2))
    checked = check_dataset(storage, "mine")
    assert told(checked) == [("train.jsonl:2", "SPLITS_OVERLAP")]
    assert "that test.jsonl:2 shows" in checked.problems[0].message


def test_images_that_are_gone_changed_or_undecodable_are_told_where_they_are_shown(storage: Storage) -> None:
    found = examples("a", 1, 2, 3, 4)
    animated = probe(_animated())
    found.append(Example("film", "?", (animated,), GroundTruth("x")))
    found[3] = replace(found[3], images=(replace(found[3].images[0], size=Size(99, 10)),))
    put(storage, "train", found)
    storage.delete(image_key(found[0].images[0].sha256))
    storage.write(image_key(found[1].images[0].sha256), b"other bytes")
    checked = check_dataset(storage, "mine")
    assert told(checked) == [
        ("train.jsonl:1", "OBJECT_NOT_FOUND"),
        ("train.jsonl:2", "IMAGE_CORRUPT"),
        ("train.jsonl:4", "RECORD_INVALID"),
        ("train.jsonl:5", "IMAGE_ANIMATED"),
    ]
    assert "the record says image/png, 99x10" in checked.problems[2].message
    assert checked.reasons["IMAGE_ANIMATED"] == 1


def test_a_split_whose_records_were_changed_is_told(storage: Storage) -> None:
    put(storage, "train", examples("a", 1))
    put(storage, "test", examples("b", 2))
    storage.write("datasets/mine/train.jsonl", b"{}\n")
    checked = check_dataset(storage, "mine")
    assert [problem.reason for problem in checked.problems] == ["OBJECT_CORRUPT"]
    assert checked.examples == 1


def test_images_of_chains_are_looked_at(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(20, 10))
    said = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Tea."}]
    (tmp_path / "c.json").write_text(json.dumps([{"id": "c1", "messages": said, "images": ["a.png"]}]))
    import_chains(storage, Source(tmp_path / "c.json", "c"), "mine", "train")
    assert (check_dataset(storage, "mine").problems, check_dataset(storage, "mine").chains) == ([], 1)
    for key in storage.list("images/"):
        storage.delete(key)
    assert told(check_dataset(storage, "mine")) == [("train.jsonl:1", "OBJECT_NOT_FOUND")]


ROW: dict[str, Any] = {"id": "a", "image": "a.png", "question": "?", "answer": "x"}


def test_files_are_checked_before_anything_is_stored(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(20, 10))
    (tmp_path / "cut.png").write_bytes(encoded(200, 100)[:-40])
    (tmp_path / "bomb.png").write_bytes(huge_png(60_000, 60_000))
    rows = [
        ROW,
        ROW | {"id": "b", "image": "none.png"},
        ROW | {"id": "c", "kind": "point", "box": [0, 0, 30, 10]},
        ROW | {"id": "d", "kind": "choice", "choices": ["y", "z"]},
        ROW,
        ROW | {"id": "e", "image": "cut.png"},
        ROW | {"id": "f", "image": "bomb.png"},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = sorted(tmp_path.rglob("*"))
    checked = check_source(Source(tmp_path / "q.jsonl"), "train", samples=5)
    assert told(checked) == [
        ("q.jsonl:2", "IMAGE_MISSING"),
        ("q.jsonl:3", "RECORD_INVALID"),
        ("q.jsonl:4", "RECORD_INVALID"),
        ("q.jsonl:5", "DUPLICATE_ID"),
        ("q.jsonl:6", "IMAGE_UNREADABLE"),
        ("q.jsonl:7", "IMAGE_TOO_LARGE"),
    ]
    assert (checked.examples, len(checked.samples)) == (1, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_chains_are_checked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(20, 10))
    said = [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "Tea."}]
    rows = [{"id": name, "messages": said, "images": [image]} for name, image in (("1", "a.png"), ("2", "b.png"))]
    (tmp_path / "c.json").write_text(json.dumps([*rows, {**rows[0], "id": "3"}]))
    checked = check_source(Source(tmp_path / "c.json", "c"), "train", samples=3)
    assert told(checked) == [("c.json:2", "IMAGE_MISSING")]
    assert (checked.chains, checked.examples, len(checked.samples)) == (2, 1, 1)


def test_an_empty_file_is_a_problem_and_an_unknown_data_set_an_error(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("\n")
    assert check_source(Source(tmp_path / "q.jsonl"), "train").reasons == {"EMPTY": 1}
    with pytest.raises(DataError, match="no data set"):
        check_dataset(storage, "mine")


def test_choices_that_the_question_does_not_name_are_remarked(storage: Storage) -> None:
    truth = GroundTruth("left", AnswerKind.CHOICE, ("left", "right"))
    hidden, shown = (replace(one, truth=truth) for one in examples("a", 1, 2))
    put(storage, "train", [hidden, replace(shown, question="Is it Left or right?")])
    checked = check_dataset(storage, "mine")
    assert (checked.problems, len(checked.remarks)) == ([], 1)
    assert "1 questions do not name" in checked.remarks[0]


def test_the_contact_sheet_draws_boxes_where_they_are_and_escapes_texts() -> None:
    image = probe(encoded(200, 100))
    corner = [Point(x, y, Frame.ORIGINAL) for x, y in ((0, 0), (100, 0), (0, 50))]
    truth = GroundTruth("", AnswerKind.POINT, box=Box(0, 0, 100, 50), evidence=(Box(50, 50, 100, 100),))
    pointed = Example("p<1>", "Where is <script>?", (image,), truth, tags={"size": "small"})
    polygon = replace(pointed, truth=replace(truth, region=tuple(corner)))
    page = render_contact_sheet("Mine & yours", "2 samples", [(pointed, image), (polygon, image)])
    assert "<script>" not in page
    assert "Mine &amp; yours" in page
    # 200 pixels are drawn 420 wide.
    assert re.search(r'class="truth" x="0.0" y="0.0" width="210.0" height="105.0"', page)
    assert re.search(r'class="evidence" x="105.0" y="105.0" width="105.0" height="105.0"', page)
    assert '<polygon class="truth" points="0.0,0.0 210.0,0.0 0.0,105.0"/>' in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def _animated() -> bytes:
    buffer = io.BytesIO()
    frames = [PILImage.new("RGB", (20, 10), (color, 0, 0)) for color in (1, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()
