"""Published files become the right questions: frames, orders of corners, answers, tags, joined and shrunk images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.benchmark_files import PER_BENCHMARK, cell, write_benchmark_files, write_parquet
from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.records import example_to_record, record_to_example
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Box, Frame, FrameMap, Size
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.evaluation.benchmarks import BENCHMARKS, find_benchmark
from vigorl_lib.evaluation.benchmarks.importing import import_benchmark
from vigorl_lib.evaluation.benchmarks.paper import paper_rows
from vigorl_lib.evaluation.benchmarks.questions import chosen, split_options
from vigorl_lib.evaluation.benchmarks.spatial import SUB_TASKS
from vigorl_lib.evaluation.benchmarks.table import render_results, results_to_json
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.prompts import load_prompt
from vigorl_lib.reward.matching import Match, match_answer
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore

NAMES = sorted(BENCHMARKS)
OS_ATLAS, WEB_ACTION = "vigorl_osatlas_val_RL.jsonl", "vigorl_web_action_MCTS.jsonl"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_benchmark_files(root)
    return root


@pytest.fixture(scope="module")
def read(files: Path) -> Callable[..., list[Example]]:
    return lambda name, split="": list(BENCHMARKS[name].examples(files / name, split))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_reads_its_files_and_its_examples_survive_storage(
    name: str, read: Callable[..., list[Example]], files: Path, tmp_path: Path
) -> None:
    examples = read(name)
    assert len(examples) == PER_BENCHMARK[name]
    assert len({example.example_id for example in examples}) == len(examples)
    assert all(set(example.tags) <= set(BENCHMARKS[name].tags) | {"source"} for example in examples)
    storage = open_storage(str(tmp_path))
    assert import_benchmark(storage, BENCHMARKS[name], files / name) == len(examples)
    again = read_dataset(storage, ImageStore(storage), name, BENCHMARKS[name].split)
    assert again == examples
    assert [image.data for image in again[0].images] == [image.data for image in examples[0].images]


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_of_a_benchmark_exists_and_its_task_says_how_it_is_asked(name: str) -> None:
    benchmark = BENCHMARKS[name]
    for prompt in benchmark.prompts:
        task = benchmark.task(prompt, TaskConfig(max_tokens=77))
        assert load_prompt(task.family, task.prompt_name).text
        assert task.mode == ("multi_turn" if prompt == "multi_turn" else "single_turn")
        assert task.max_tokens == 77, "what the benchmark does not settle is the recipe's"
        assert task.zoom.strict == (prompt != "direct"), "an answer alone has no thought"
    with pytest.raises(ConfigError, match="expected a prompt out of"):
        benchmark.task("teacher", TaskConfig())


def test_boxes_are_corners_in_pixels_however_they_were_written(read: Callable[..., list[Example]]) -> None:
    def boxes(name: str, split: str = "") -> list[Box | None]:
        return [example.truth.box for example in read(name, split)]

    assert boxes("screenspot-v2") == [Box(250, 20, 290, 50)] * 3, "left, top, width, height"
    assert boxes("screenspot")[-1] == Box(280, 190, 300, 200), "cut off where the image ends"
    assert boxes("screenspot-pro") == [Box(1200, 600, 1240, 624)] * 3, "two corners"
    assert boxes("screenspot-pro-lr") == [Box(900, 450, 930, 468)] * 3, "and where they are in the smaller image"
    assert boxes("os-atlas") == [Box(10, 20, 60, 40), Box(100, 30, 160, 90)]
    assert boxes("os-atlas", "desktop") == [Box(20, 20, 60, 40), Box(180, 0, 200, 10)], "shares of 200 by 100"
    assert boxes("os-atlas", "mobile") == [Box(0, 0, 10, 10)]
    evidence = [example.truth.evidence for example in read("vstar")]
    assert evidence[0] == (Box(100, 50, 130, 90),)
    assert evidence[2] == (Box(10, 20, 40, 60), Box(200, 20, 230, 60))


def test_the_mirror_of_screenspot_has_shares_and_names_no_platform(tmp_path: Path) -> None:
    rows = [
        {
            "file_name": f"{number}.png",
            "bbox": [0.1, 0.2, 0.3, 0.5],
            "instruction": "search",
            "data_type": "text",
            "data_source": source,
            "image": cell(200, 100, number),
        }
        for number, source in enumerate(("macos", "android", "gitlab"))
    ]
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", rows)
    examples = list(BENCHMARKS["screenspot"].examples(tmp_path))
    assert [example.tags["platform"] for example in examples] == ["desktop", "mobile", "web"]
    box = examples[0].truth.box
    assert box is not None
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((20, 20, 60, 50))


def test_files_take_turns_so_that_the_first_questions_are_of_all_of_them(read: Callable[..., list[Example]]) -> None:
    assert [example.tags["group"] for example in read("screenspot-pro")] == ["Creative", "Dev", "Creative"]


def test_a_box_in_another_order_or_frame_is_refused_and_the_row_is_named(tmp_path: Path, files: Path) -> None:
    rows = json.loads((files / "screenspot-pro" / "annotations" / "vscode_macos.json").read_text())
    folder = tmp_path / "annotations"
    folder.mkdir()
    (tmp_path / "images").symlink_to(files / "screenspot-pro" / "images")
    (folder / "a.json").write_text(json.dumps([rows[0] | {"bbox": [1200, 600, 40, 24]}]))
    with pytest.raises(DataError, match=r"a\.json:1: bbox: expected a box on the image .* another order or frame"):
        list(BENCHMARKS["screenspot-pro"].examples(tmp_path))
    (tmp_path / "desktop_domain").mkdir()
    (tmp_path / "images" / "x.png").unlink(missing_ok=True)
    row = {"img_filename": rows[0]["img_filename"], "instruction": "x", "bbox": [10, 20, 30, 40]}
    (tmp_path / "desktop_domain" / "linux_splited.json").write_text(json.dumps([row]))
    with pytest.raises(DataError, match="expected shares of the image"):
        list(BENCHMARKS["os-atlas"].examples(tmp_path, "desktop"))


def test_choices_stand_below_the_question_and_the_authors_own_instructions_do_not(
    read: Callable[..., list[Example]],
) -> None:
    glove = read("vstar")[0]
    assert glove.question == "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather"
    assert (glove.truth.answer, glove.truth.kind) == ("cotton", AnswerKind.CHOICE)
    assert glove.tags == {"category": "attribute"}
    car, count = read("realworldqa")
    assert car.question == "Which way does the car face?\n(A) Left\n(B) Straight\n(C) Right"
    assert car.truth.answer == "Right"
    assert (count.question, count.truth.answer) == ("How many cars are there?", "2")
    context = read("robospatial-context")[0]
    assert context.question.endswith("free space right of it.")


def test_an_answer_names_a_choice_by_letter_or_by_its_text() -> None:
    row = Fields({}, "row")
    assert [chosen(row, answer, ("Left", "B", "Right")) for answer in ("(C)", "B.", "left")] == ["Right", "B", "Left"]
    for answer in ("D", "", "up"):
        with pytest.raises(DataError, match="expected the letter or the text"):
            chosen(row, answer, ("Left", "Right"))


def test_options_are_lines_lettered_in_order_and_nothing_else() -> None:
    assert split_options("Which?\nA. one\nB. two") == ("Which?", ("one", "two"))
    assert split_options("A. Smith wrote it.\nWho is he?") == ("A. Smith wrote it.\nWho is he?", ())
    assert split_options("Which?\n(A) one\n(C) three") == ("Which?\n(A) one\n(C) three", ())


def test_blink_has_all_sub_tasks_with_their_images_apart_or_joined(read: Callable[..., list[Example]]) -> None:
    apart, together = read("blink"), read("blink-joined")
    assert {example.tags["sub_task"] for example in apart} == set(SUB_TASKS)
    assert {len(example.images) for example in apart} == {1, 2, 3, 4}
    for example, joined in zip(sorted(apart, key=_id), sorted(together, key=_id), strict=True):
        assert len(joined.images) == 1
        assert joined.images[0].size == Size(56 * len(example.images), 42)
        assert joined.truth == example.truth
    assert sum(SUB_TASKS.values()) == BENCHMARKS["blink"].splits["val"] == 1901


def test_a_row_without_an_image_is_told_with_its_cell(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a" / "test-0.parquet", [{"image": None, "question": "x", "answer": "y"}])
    with pytest.raises(DataError, match=r"test-0\.parquet:1: image: expected an image, found none") as refused:
        list(BENCHMARKS["realworldqa"].examples(tmp_path / "a"))
    assert refused.value.reason == "IMAGE_MISSING"
    path_alone = {"image": {"bytes": None, "path": "a.png"}, "question": "x", "answer": "y"}
    write_parquet(tmp_path / "b" / "test-0.parquet", [path_alone])
    with pytest.raises(DataError, match=r"image: expected the bytes of an image, found the path 'a\.png' alone"):
        list(BENCHMARKS["realworldqa"].examples(tmp_path / "b"))
    row = {"idx": "1", "sub_task": "Jigsaw", "question": "x", "choices": ["a", "b"], "answer": "(A)", "image_1": None}
    write_parquet(tmp_path / "blink" / "val-0.parquet", [row])
    with pytest.raises(DataError, match="image_1: expected an image, found none"):
        list(BENCHMARKS["blink"].examples(tmp_path))


def test_joined_images_have_one_height_and_large_ones_are_shrunk(tmp_path: Path) -> None:
    row = {
        "image_bytes": [cell(2000, 500, 1)["bytes"], cell(500, 250, 2)["bytes"]],
        "question": "Left or right?",
        "answers": ["left", "right"],
        "question_type": "perspective",
        "correct_answer": "left",
    }
    write_parquet(tmp_path / "SAT_val.parquet", [row])
    (example,) = BENCHMARKS["sat2"].examples(tmp_path, "val")
    # 2000 + 1000 by 500, then 1260 at most.
    assert example.images[0].size == Size(1260, 210)


def test_a_point_must_lie_in_the_polygon_and_not_only_in_the_box_around_it(read: Callable[..., list[Example]]) -> None:
    (context,) = read("robospatial-context")
    truth, size = context.truth, context.images[0].size
    assert truth.box == Box(70, 28, 126, 84)
    frames = FrameMap(size, size)
    assert match_answer("(110, 40)", truth, frames) is Match.RIGHT
    assert match_answer("(75, 80)", truth, frames) is Match.WRONG, "in the box, below the slanted side"
    assert match_answer("(10, 10)", truth, frames) is Match.WRONG
    assert record_to_example(example_to_record(context)) == context


def test_an_open_answer_may_be_spelled_in_any_of_its_ways(read: Callable[..., list[Example]]) -> None:
    by_id = {example.example_id: example for example in read("mmmu")}
    length = by_id["validation_Math_3"]
    assert match_answer("4 CM", length.truth) is Match.RIGHT
    assert match_answer("5", length.truth) is Match.WRONG
    assert record_to_example(example_to_record(length)).truth == length.truth
    assert by_id["validation_Art_Theory_2"].tags["subject"] == "Art_Theory"
    assert len(by_id["validation_Art_Theory_2"].images) == 2


def test_the_bundles_of_the_reference_are_read_where_the_originals_are_missing(tmp_path: Path, files: Path) -> None:
    (tmp_path / "shot.png").write_bytes((files / "os-atlas" / "images" / "atlas_0.png").read_bytes())
    said = [{"from": "human", "value": "<image>Description: save"}, {"from": "gpt", "value": "(1, 2, 30, 40)"}]
    row = {"id": 7, "image": "shot.png", "conversations": said}
    (tmp_path / "screenspot_pro_test.jsonl").write_text(json.dumps(row))
    (example,) = BENCHMARKS["screenspot-pro"].examples(tmp_path)
    assert (example.example_id, example.question, example.truth.box) == ("7", "Description: save", Box(1, 2, 30, 40))
    (tmp_path / "blink_validation.jsonl").write_text(
        json.dumps(row | {"id": "val_IQ_Test_3", "conversations": [said[0], {"from": "gpt", "value": "the second"}]})
    )
    (example,) = BENCHMARKS["blink-joined"].examples(tmp_path)
    assert example.tags == {"sub_task": "IQ_Test"}


def test_options_in_a_bundles_question_make_its_answer_a_choice(tmp_path: Path, files: Path) -> None:
    (tmp_path / "shot.png").write_bytes((files / "os-atlas" / "images" / "atlas_0.png").read_bytes())
    questions = ("<image>Which glove?\n(A) rubber\n(B) cotton", "<image>Which glove: rubber or cotton?")
    rows = [
        {"id": question, "image": "shot.png", "conversations": [{"value": question}, {"value": "cotton"}]}
        for question in questions
    ]
    (tmp_path / "vstarbench_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lettered, plain = BENCHMARKS["vstar"].examples(tmp_path)
    assert (lettered.truth.kind, lettered.truth.choices) == (AnswerKind.CHOICE, ("rubber", "cotton"))
    assert lettered.question == "Which glove?\n(A) rubber\n(B) cotton", "as it was"
    assert match_answer("(B)", lettered.truth) is Match.RIGHT
    assert plain.truth.kind is AnswerKind.STRING
    assert match_answer("B. Cotton", plain.truth) is Match.RIGHT
    assert match_answer("A. rubber", plain.truth) is Match.WRONG


@pytest.mark.parametrize(
    ("name", "file", "broken", "told"),
    [
        ("os-atlas", OS_ATLAS, {"answer": "click [3]"}, r"answer: expected a box \(x1, y1, x2, y2\)"),
        ("os-atlas", OS_ATLAS, {"answer": "(300, 1, 310, 9)"}, "box: expected"),
        ("web-action", WEB_ACTION, {"conversations": [{"value": "?"}] * 2}, "answer: expected a web action"),
        ("web-action", WEB_ACTION, {"image": None}, "'image' is missing"),
    ],
)
def test_a_bundle_with_a_row_that_is_no_question_of_the_benchmark_is_refused_whole(
    name: str, file: str, broken: dict[str, object], told: str, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").symlink_to(files / name / "images")
    good, *_ = (files / name / file).read_text().splitlines()
    (tmp_path / file).write_text(f"{good}\n{json.dumps(json.loads(good) | broken)}")
    with pytest.raises(DataError, match=rf"^{file}:2: .*{told}"):
        list(BENCHMARKS[name].examples(tmp_path))


def test_images_of_a_bundle_that_was_written_on_another_machine_are_found_by_their_ends(
    tmp_path: Path, files: Path
) -> None:
    place = tmp_path / "images" / "shots" / "a.png"
    place.parent.mkdir(parents=True)
    place.write_bytes((files / "os-atlas" / "images" / "atlas_0.png").read_bytes())
    row = {"problem": "<image>save", "answer": "(1, 2, 30, 40)", "images": ["/home/them/data/shots/a.png"]}
    (tmp_path / OS_ATLAS).write_text(json.dumps(row))
    (example,) = BENCHMARKS["os-atlas"].examples(tmp_path)
    assert example.images[0].data == place.read_bytes()


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected test_questions\.jsonl or vstarbench_test\.jsonl"):
        list(BENCHMARKS["vstar"].examples(tmp_path))
    with pytest.raises(ConfigError, match="expected a split out of test"):
        list(BENCHMARKS["vstar"].examples(tmp_path, "train"))
    with pytest.raises(ConfigError, match="screenspot-pro"):
        find_benchmark("screenspot-prro")
    (tmp_path / "test_questions.jsonl").write_text('{"image": "a.jpg", "category": "direct_attributes", "text": "x"}')
    with pytest.raises(DataError, match=r"test_questions\.jsonl:1: cannot find the image 'a\.jpg'"):
        list(BENCHMARKS["vstar"].examples(tmp_path))
    (tmp_path / "annotations.json").write_text("[]")
    with pytest.raises(DataError, match=r"questions of the split test in annotations\.json, found none"):
        list(BENCHMARKS["robospatial"].examples(tmp_path))
    (tmp_path / "blink").mkdir()
    (tmp_path / "blink" / "val-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="expected a Parquet file"):
        list(BENCHMARKS["blink"].examples(tmp_path))


def test_the_papers_numbers_are_of_known_benchmarks_and_prompts() -> None:
    assert str(next(row for row in paper_rows("screenspot-v2", "single_turn"))) == "ViGoRL-3B 86.5 ±1.9"
    for row in paper_rows():
        assert row.benchmark in {*BENCHMARKS, "visualwebarena"}
        assert 0 < row.accuracy < 100
        if row.prompt:
            assert row.prompt in BENCHMARKS[row.benchmark].prompts


def test_a_region_needs_its_box() -> None:
    record = {"id": "a", "question": "where?", "kind": "point", "box": [0, 0, 4, 4], "region": [[0, 0], [4, 0]]}
    image = {"sha256": "0" * 64, "media_type": "image/png", "width": 8, "height": 8}
    with pytest.raises(DataError, match="at least three corners"):
        record_to_example(record | {"images": [image]})
    good = record | {"images": [image], "region": [[0, 0], [4, 0], [0, 4]]}
    corners = [(corner.x, corner.y, corner.frame) for corner in record_to_example(good).truth.region]
    assert corners == [(0, 0, Frame.ORIGINAL), (4, 0, Frame.ORIGINAL), (0, 4, Frame.ORIGINAL)]


def test_categories_of_unequal_size_count_alike_in_their_mean() -> None:
    def record(number: int, task: str, correct: bool) -> SampleRecord:
        outcome = "correct" if correct else "wrong"
        return SampleRecord(str(number), correct, outcome, "answered", "x", 1, 0, 0.0, tags={"sub_task": task})

    records = [record(number, "Jigsaw", True) for number in range(3)] + [record(3, "Counting", False)]
    row = results_to_json({"blink": {("p", "single_turn"): records}})[0]
    assert row["accuracy"]["value"] == 0.75
    assert row["mean_of_categories"] == {"sub_task": 0.5}
    assert "| sub_task | mean of 2 |  | 50.0 |" in render_results(
        {"blink": {("p", "single_turn"): records}}, markdown=True
    )


def test_what_had_no_room_to_answer_is_told_apart() -> None:
    stops = ("answered", "max_tokens", "context_overflow", "max_turns")
    records = [SampleRecord(stop, False, "no_answer", stop, None, 1, 0, 0.0) for stop in stops]
    (row,) = results_to_json({"sat2": {("p", "single_turn"): records}})
    assert (row["not_parseable"], row["cut_off"]) == (4, 2)
    assert "| 100.0 | 50.0 |" in render_results({"sat2": {("p", "single_turn"): records}}, markdown=True)


def _id(example: Example) -> str:
    return example.example_id
