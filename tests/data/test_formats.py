"""Questions in every format that comes in, out again, and back: what is kept, what is told to be lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.strategies import names
from tests.pictures import encoded
from vigorl_lib.data import exporters
from vigorl_lib.data.datasets import read_dataset, write_dataset
from vigorl_lib.data.exporters import export_examples
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.formats import Columns, detect
from vigorl_lib.data.importers import Imported, Source, import_examples
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Frame, Point
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore, probe

PICTURES = [probe(encoded(40, 30, "PNG", color)) for color in (10, 20)] + [probe(encoded(64, 48, "JPEG", 30))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "a.png").write_bytes(PICTURES[0].data or b"")
    (folder / "photos" / "b.png").write_bytes(PICTURES[1].data or b"")
    return folder


def bring(
    storage: Storage, path: Path, format: str = "", columns: Columns | None = None, split: str = "train"
) -> Imported:
    columns = columns or Columns()
    return import_examples(storage, Source(path, format or detect(path, columns), None, columns), "mine", split)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "r1", "image": "photos/a.png", "conversations": said, **more}


EXAMPLES = [
    Example("words", "What is it?\nSay it.", (PICTURES[0],), GroundTruth("a cup")),
    Example("place", "Point at it.", (PICTURES[2],), GroundTruth("", AnswerKind.POINT, box=Box(3, 4, 20, 24))),
    Example("action", "Buy it.", (PICTURES[1],), GroundTruth("click [12]", AnswerKind.ACTION)),
]
RICH = [
    Example(
        "choice",
        "Which?",
        (PICTURES[0], PICTURES[2]),
        GroundTruth(
            "left",
            AnswerKind.CHOICE,
            ("left", "right"),
            evidence=(Box(1, 2, 3.5, 4),),
            distractors=(Box(5, 6, 7, 8), Box(1, 1, 2, 2)),
        ),
        "spatial",
        {"size": "small", "room": "attic"},
    ),
    Example("free", "Describe.", (PICTURES[1],), GroundTruth("red", AnswerKind.FREE, accepted=("crimson", "scarlet"))),
    Example(
        "region",
        "Where?",
        (PICTURES[2],),
        GroundTruth(
            "",
            AnswerKind.POINT,
            box=Box(0, 0, 9.5, 9),
            region=tuple(Point(x, y, Frame.ORIGINAL) for x, y in ((0, 0), (9.5, 0), (0, 9))),
        ),
    ),
]


@pytest.mark.parametrize(
    ("format", "examples"),
    [("jsonl", EXAMPLES + RICH), ("parquet", EXAMPLES + RICH), ("a", EXAMPLES), ("b", EXAMPLES)],
)
def test_what_is_exported_comes_back_the_same(
    storage: Storage, tmp_path: Path, format: str, examples: list[Example]
) -> None:
    write_dataset(storage, ImageStore(storage), "first", "train", examples)
    target = open_storage(str(tmp_path / "out"))
    report = export_examples(storage, examples, format, target, "train")
    assert (report.written, +report.lost, report.left_out) == (len(examples), {}, {})
    path = tmp_path / "out" / ("train-00000.parquet" if format == "parquet" else "train.jsonl")
    assert detect(path, Columns()) == format
    bring(storage, path)
    back = read_dataset(storage, ImageStore(storage), "mine", "train")
    assert back == examples
    assert [image.data for one in back for image in one.images] == [i.data for one in examples for i in one.images]


def test_parquet_of_many_images_is_several_files_that_are_read_as_one_folder(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "PARQUET_BYTES", 1)
    write_dataset(storage, ImageStore(storage), "first", "train", EXAMPLES)
    assert export_examples(storage, EXAMPLES, "parquet", open_storage(str(tmp_path / "out")), "train").written == 3
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == [f"train-0000{k}.parquet" for k in range(3)]
    assert bring(storage, tmp_path / "out").examples == EXAMPLES


@settings(max_examples=25, deadline=None)
@given(names, names, names, st.lists(names, max_size=3), st.dictionaries(names, st.text(max_size=9)))
def test_any_text_survives_both_full_formats(
    name: str, question: str, answer: str, spellings: list[str], tags: dict[str, str]
) -> None:
    truth = GroundTruth(answer, accepted=tuple(spellings))
    example = Example(name, question, (PICTURES[0],), truth, tags=tags)
    with TemporaryDirectory() as folder:
        storage = open_storage(f"{folder}/root")
        write_dataset(storage, ImageStore(storage), "first", "train", [example])
        for format, file in (("jsonl", "train.jsonl"), ("parquet", "train-00000.parquet")):
            export_examples(storage, [example], format, open_storage(f"{folder}/{format}"), "train")
            source = Source(Path(folder, format, file), format)
            assert import_examples(storage, source, format, "train").examples == [example]


@pytest.mark.parametrize("format", ["a", "b"])
def test_files_of_the_published_formats_come_out_byte_for_byte_again(
    storage: Storage, tmp_path: Path, format: str
) -> None:
    write_dataset(storage, ImageStore(storage), "first", "train", EXAMPLES)
    export_examples(storage, EXAMPLES, format, open_storage(str(tmp_path / "out")), "train")
    bring(storage, tmp_path / "out" / "train.jsonl")
    again = read_dataset(storage, ImageStore(storage), "mine", "train")
    export_examples(storage, again, format, open_storage(str(tmp_path / "again")), "train")
    assert (tmp_path / "again" / "train.jsonl").read_bytes() == (tmp_path / "out" / "train.jsonl").read_bytes()


def test_what_a_published_format_cannot_hold_is_counted(storage: Storage, tmp_path: Path) -> None:
    write_dataset(storage, ImageStore(storage), "first", "train", RICH)
    a = export_examples(storage, RICH, "a", open_storage(str(tmp_path / "a")), "train")
    assert (a.written, a.left_out) == (2, {"several images": 1})
    assert +a.lost == {"accepted": 1, "kind": 1, "region": 1, "fractions of a pixel": 1}
    b = export_examples(storage, RICH, "b", open_storage(str(tmp_path / "b")), "train")
    assert b.written == 3
    assert {"choices", "evidence", "distractors", "tags", "task"} < set(+b.lost)


def test_format_a_is_read_by_its_rules(storage: Storage, folder: Path) -> None:
    rows = [
        talk("<image>\nWhat?", " tea ", id=7, model="None", note="dropped"),
        {"id": "no image", "conversations": []},
        talk("Where? <image>", "(2, 3, 60, 20)", id="box"),
        talk("Next?", "type [3] [tea]", id="step"),
    ]
    found = bring(storage, lines(folder / "a.jsonl", rows))
    first, box, step = found.examples
    assert found.skipped == 1
    assert (first.example_id, first.question, first.truth) == ("7", "What?", GroundTruth("tea"))
    assert (box.question, box.truth) == ("Where?", GroundTruth("", AnswerKind.POINT, box=Box(2, 3, 40, 20)))
    assert step.truth.kind is AnswerKind.ACTION


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (talk("?", "x") | {"conversations": [{"from": "human", "value": "?"}]}, "a question and an answer, found 1"),
        (talk("?", "(50, 3, 60, 20)"), r"box: expected .*\(40x30\), found \[50, 3, 60, 20\]"),
        (talk("?", "x", image="none.png"), "cannot read the image"),
        (talk("<image>", "x"), "question: expected some text"),
    ],
)
def test_a_wrong_row_of_format_a_is_told(storage: Storage, folder: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^a\.jsonl:1: .*{message}"):
        bring(storage, lines(folder / "a.jsonl", [row]))


def test_format_b_takes_paths_and_bytes(storage: Storage, folder: Path) -> None:
    row = {"problem": "<image><image> Same?", "answer": "no", "images": ["photos/a.png", "photos/b.png"], "extra": 1}
    example = bring(storage, lines(folder / "b.jsonl", [row])).examples[0]
    assert (example.example_id, example.question, example.images) == ("train-b-1", "Same?", tuple(PICTURES[:2]))
    cells: list[Any] = [[PICTURES[0].data], [PICTURES[1].data]]
    table = pa.table({"problem": ["One?", "Two?"], "answer": ["1", "2"], "images": cells})
    pq.write_table(table, folder / "b.parquet")
    found = bring(storage, folder / "b.parquet", split="test")
    assert [example.images[0] for example in found.examples] == PICTURES[:2]


def test_absolute_paths_of_another_machine_are_found_by_their_ends(storage: Storage, folder: Path) -> None:
    row = talk("?", "x", image="/data/jobs/7/photos/b.png")
    assert bring(storage, lines(folder / "a.jsonl", [row])).examples[0].images == (PICTURES[1],)


def as_csv(folder: Path) -> Path:
    (folder / "t.csv").write_text("picture,prompt,label,place\nphotos/a.png,What?,7,attic\n")
    return folder / "t.csv"


def as_json(folder: Path) -> Path:
    row = {"picture": "photos/a.png", "prompt": "What?", "label": 7, "place": "attic"}
    (folder / "t.json").write_text(json.dumps([row]))
    return folder / "t.json"


def as_jsonl(folder: Path) -> Path:
    row = {"picture": "photos/a.png", "prompt": "What?", "label": 7.0, "place": "attic", "other": [1]}
    return lines(folder / "t.jsonl", [row])


def as_parquet(folder: Path) -> Path:
    row = {"picture": {"bytes": PICTURES[0].data, "path": "x.png"}, "prompt": "What?", "label": 7, "place": "attic"}
    pq.write_table(pa.Table.from_pylist([row]), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize("write", [as_csv, as_json, as_jsonl, as_parquet])
def test_somebody_elses_columns_become_ours(storage: Storage, folder: Path, write: Callable[[Path], Path]) -> None:
    names = {"image": "picture", "question": "prompt", "answer": "label"}
    example = bring(storage, write(folder), columns=Columns(names, ("place",), AnswerKind.FREE)).examples[0]
    assert (example.question, example.images, example.tags) == ("What?", (PICTURES[0],), {"place": "attic"})
    assert example.truth == GroundTruth("7", AnswerKind.FREE)
    assert example.example_id == "train-t-1"


def test_a_column_that_is_not_there_is_told_with_those_that_are(storage: Storage, folder: Path) -> None:
    with pytest.raises(DataError, match="no column 'promt'; found label, picture, place, prompt"):
        bring(storage, as_json(folder), columns=Columns({"question": "promt", "image": "picture"}))


def test_a_column_that_is_called_like_ours_can_be_left_out(storage: Storage, folder: Path) -> None:
    row = {"image": "photos/a.png", "question": "?", "answer": "x", "tags": ["a", "b"], "task": 3, "author": "me"}
    (folder / "t.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match=r"tags: expected names with values, found \['a', 'b'\].*--field tags="):
        bring(storage, folder / "t.json")
    columns = Columns({"tags": "", "task": ""})
    assert bring(storage, folder / "t.json", columns=columns).examples[0].tags == {}
    assert columns.left_out(Fields(row, "t.json:1")) == ["author", "tags", "task"]


@pytest.mark.parametrize("answer", ["right", "B", "(b)", 1])
def test_a_choice_may_be_named_by_text_letter_or_number(storage: Storage, folder: Path, answer: object) -> None:
    row = {"image": "photos/a.png", "question": "?", "choices": ["left", "right"], "answer": answer}
    (folder / "t.json").write_text(json.dumps([row]))
    truth = bring(storage, folder / "t.json").examples[0].truth
    assert truth == GroundTruth("right", AnswerKind.CHOICE, ("left", "right"))


@pytest.mark.parametrize("answer", ["C", 2, "nothing"])
def test_an_answer_that_is_no_choice_is_refused(storage: Storage, folder: Path, answer: object) -> None:
    row = {"image": "photos/a.png", "question": "?", "choices": ["left", "right"], "answer": answer}
    (folder / "t.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match="answer: expected"):
        bring(storage, folder / "t.json")


def test_an_image_folder_is_read_split_by_split(storage: Storage, tmp_path: Path) -> None:
    for split, picture in (("train", PICTURES[0]), ("test", PICTURES[1])):
        (tmp_path / "set" / split).mkdir(parents=True)
        (tmp_path / "set" / split / "x.png").write_bytes(picture.data or b"")
        lines(tmp_path / "set" / split / "metadata.jsonl", [{"file_name": "x.png", "question": split, "answer": "1"}])
    for split, picture in (("train", PICTURES[0]), ("test", PICTURES[1])):
        example = bring(storage, tmp_path / "set", split=split).examples[0]
        assert (example.question, example.images) == (split, (picture,))
    with pytest.raises(DataError, match=r"no file of the split 'validation'; .* tell of test, train"):
        bring(storage, tmp_path / "set", split="validation")


def test_a_clone_of_the_hub_is_read_from_all_files_of_the_split(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "train.parquet").write_bytes(b"no table")
    for number, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"]):
        row = {"image": {"bytes": PICTURES[0].data, "path": None}, "question": f"{number}?", "answer": "x"}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "data" / f"{name}.parquet")
    found = bring(storage, tmp_path, split="train").examples
    assert [example.question for example in found] == ["0?", "1?"]
    assert len({example.example_id for example in found}) == 2


def test_what_datasets_saved_to_disk_is_read(storage: Storage, tmp_path: Path) -> None:
    rows = [{"image": {"bytes": PICTURES[k].data, "path": None}, "question": f"{k}?", "answer": "x"} for k in (0, 1)]
    table = pa.Table.from_pylist(rows)
    with (
        pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as w,
    ):
        w.write_table(table)
    (tmp_path / "state.json").write_text("{}")
    found = bring(storage, tmp_path).examples
    assert [example.images[0] for example in found] == PICTURES[:2]


def test_a_folder_without_tables_says_what_was_looked_for(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DataError, match="expected tables"):
        bring(storage, tmp_path)


@pytest.mark.parametrize(
    ("name", "data"), [("x.parquet", b"no"), ("x.arrow", b"no"), ("x.json", b"{"), ("x.xml", b"<")]
)
def test_a_file_that_is_no_table_is_told(storage: Storage, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="expected a"):
        bring(storage, tmp_path / name, "table")


def test_rows_of_no_known_format_tell_their_fields(tmp_path: Path) -> None:
    path = lines(tmp_path / "x.jsonl", [{"prompt": "?", "picture": "a.png"}])
    with pytest.raises(DataError, match=r"fields picture, prompt; .*--field question=prompt"):
        detect(path, Columns())


def test_an_import_that_was_cut_off_stores_each_image_once(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": str(k), "image": f"photos/{'ab'[k % 2]}.png", "question": "?", "answer": "x"} for k in range(30)]
    path = lines(folder / "q.jsonl", [*rows, {"id": "30"}])
    written: list[str] = []
    write = type(storage).write

    def noted(self: Storage, key: str, data: bytes) -> None:
        written.append(key)
        write(self, key, data)

    monkeypatch.setattr(type(storage), "write", noted)
    with pytest.raises(DataError):
        bring(storage, path)
    assert storage.list("datasets/") == []
    bring(storage, lines(path, rows))
    assert len([key for key in written if key.startswith("images/") and not key.endswith(".json")]) == 2
    assert len(read_dataset(storage, ImageStore(storage), "mine", "train")) == 30


def test_other_spellings_of_one_picture_are_one_image(storage: Storage, folder: Path) -> None:
    (folder / "copy.png").write_bytes(PICTURES[0].data or b"")
    rows = [{"id": name, "image": name, "question": "?", "answer": "x"} for name in ("copy.png", "photos/a.png")]
    assert bring(storage, lines(folder / "q.jsonl", rows)).images == 1
    assert len(storage.list("images/")) == 2
