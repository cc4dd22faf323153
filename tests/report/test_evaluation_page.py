"""The page of evaluations: every setting and figure, samples by outcome, nothing that a text could break out of."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from html import escape
from pathlib import Path
from statistics import fmean

import pytest
from click.testing import CliRunner

from tests.evaluation.support import PERFECT, measure, scenes, teacher
from tests.report.conftest import HOSTILE
from tests.report.test_run import Page
from vigorl_lib.cli.behaviours import behaviours
from vigorl_lib.cli.report import report
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.errors import DataError
from vigorl_lib.evaluation.metrics import accuracy
from vigorl_lib.evaluation.run import read_records
from vigorl_lib.prompts import load_prompt
from vigorl_lib.report.evaluation import gather, to_json, to_markdown, write_evaluation_report
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore

SCENES = scenes(8)
GUESSES = {"direct_rate": 1.0, "unseen_error_rate": 0.6, "error_rate": 0.2}
CELLS = {"mix": GUESSES, "grpo": {**PERFECT, "direct_rate": 0.0}}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """A run with two policies on one data set, and below it one that is called as a benchmark is."""
    storage = open_storage(str(tmp_path_factory.mktemp("evaluated")))
    both = (SCENES[1].images[0], SCENES[2].images[0])
    examples = [replace(SCENES[0], question=HOSTILE), replace(SCENES[1], images=both), *SCENES[2:]]
    for name in ("scenes", "vstar"):
        write_dataset(storage, ImageStore(storage), name, "test", examples)
    asyncio.run(_fill(storage))
    return storage


async def _fill(storage: Storage) -> None:
    for policy, rates in CELLS.items():
        for mode in ("single_turn", "multi_turn"):
            prefix = f"runs/r/evaluation/{policy}/{mode}"
            asked = teacher(SCENES, **rates, mode=mode)
            await measure(SCENES, asked, storage, prefix=prefix, mode=mode, keep=6, dataset="scenes/test")
    prefix = "runs/r/vstar/evaluation/grpo/multi_turn"
    await measure(SCENES[:3], teacher(SCENES), storage, prefix=prefix, keep=3, samples=2, dataset="vstar/test")


@pytest.fixture(scope="module")
def html(storage: Storage) -> str:
    return storage.read(write_evaluation_report(storage, "r")).decode()


def test_every_cell_of_the_run_and_of_those_below_is_there(storage: Storage) -> None:
    found = {(one["dataset"], one["policy"], one["prompt"]): one for one in to_json(gather(storage, "r"))}
    assert len(found) == 5
    cell = found["scenes/test", "mix", "multi_turn"]
    records = read_records(storage, "runs/r/evaluation/mix/multi_turn")
    assert cell["accuracy"]["value"] == accuracy(records).value
    assert cell["by_tag"]["size"]["small"]["n"] == 4
    assert cell["figures"]["not_parseable"] == 0
    assert cell["settings"]["policy"]["revision"] is not None
    assert {"task", "prompt_sha256", "resize", "seed", "reward", "dataset"} <= cell["settings"].keys()
    assert cell["paper"] == []
    benchmark = found["vstar/test", "grpo", "multi_turn"]
    assert {row["model"] for row in benchmark["paper"]} >= {"multi-turn ViGoRL-7B"}
    assert "pass@2" in benchmark["figures"]
    assert found["scenes/test", "grpo", "multi_turn"]["behaviours"]["point_accuracy"]["value"] > 0.9


def test_the_page_is_whole_loads_nothing_and_shows_settings_prompts_and_samples(html: str) -> None:
    page = Page(html)
    assert "script" not in page.tags
    assert page.unlabelled == []
    assert all(load.startswith("data:") for load in page.loads)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "task.zoom.window_model_px" in html
    assert "resize.max_pixels" in html
    assert escape(load_prompt("synthetic_search", "multi_turn").text) in html
    assert "pass@2" in html
    assert "judged_by" in html
    assert 'aria-label="Image 2 of the question"' in html
    assert "grpo, multi turn #1" in html, "the second sample of a question"
    assert "By size" in html
    assert "Point accuracy" in html
    assert "6 (3 of 8 questions)" in html


def test_our_rows_stand_beside_the_papers_for_the_same_prompts(html: str) -> None:
    overview, _, rest = html.partition('id="data-0"')
    assert "multi-turn ViGoRL-7B 86.4 ±2.7" in overview
    beside, _, folded = rest.partition("<h3>Beside the paper</h3>")[2].partition("<details>")
    assert "this run" in beside
    assert "multi-turn ViGoRL-7B" in beside
    assert "Qwen2.5-VL-7B" not in beside, "it answered without a thought"
    assert "Qwen2.5-VL-7B" in folded.partition("</details>")[0]


def test_categories_have_their_mean_and_names_are_no_categories(storage: Storage) -> None:
    gathered = gather(storage, "r")
    number = next(k for k, c in enumerate(gathered.cells) if (c.policy, c.prompt) == ("mix", "multi_turn"))
    cell, told = gathered.cells[number], to_json(gathered)[number]
    assert told["mean_by_tag"]["size"] == fmean(share["value"] for share in told["by_tag"]["size"].values())
    named = [replace(record, tags={"id": record.example_id, **record.tags}) for record in cell.records]
    tags = replace(cell, records=named).tags
    assert "size" in tags
    assert "id" not in tags


def test_who_judged_is_told(storage: Storage) -> None:
    cell = gather(storage, "r").cells[0]
    judged = replace(cell, records=[replace(cell.records[0], judged_by="judge@r7/0"), *cell.records[1:]])
    assert (cell.judges, judged.judges) == ((), ("judge@r7/0",))


def test_questions_stand_under_the_worst_that_became_of_them(html: str) -> None:
    samples = html.partition('id="samples-0"')[2].partition("</section>")[0]
    wrong, _, correct = samples.partition("<summary>Correct")
    assert "<summary>Wrong" in wrong
    assert 'chip bad">wrong' in wrong
    assert 'chip bad">wrong' not in correct
    assert 'class="strip"' in correct


def test_markdown_has_a_table_a_data_set_with_the_papers_row(storage: Storage) -> None:
    text = to_markdown(gather(storage, "r"))
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1
    assert "| grpo | multi_turn | 6 (3 of 8 questions) |" in text, "what was not asked, or failed, is not hidden"
    assert "| mix | multi_turn | 8 |" in text
    assert "pass@2 | majority | paper |" in text
    assert "multi-turn ViGoRL-7B 86.4 ±2.7" in text


def test_the_same_records_give_the_same_bytes_and_the_commands_print_them(storage: Storage, html: str) -> None:
    root = storage.uri
    told = CliRunner().invoke(report, ["evaluation", "--root", root, "--run-id", "r"], catch_exceptions=False)
    assert told.output.strip().endswith("runs/r/evaluation/report.html")
    assert storage.read("runs/r/evaluation/report.html").decode() == html
    arguments = ["--root", root, "--run-id", "r", "--json"]
    counted = json.loads(CliRunner().invoke(behaviours, arguments, catch_exceptions=False).output)
    everything = json.loads(CliRunner().invoke(behaviours, [*arguments, "--all"], catch_exceptions=False).output)
    right = {(row["policy"], row["prompt"]): row["means"]["regions"]["n"] for row in counted}
    whole = {(row["policy"], row["prompt"]): row["means"]["regions"]["n"] for row in everything}
    assert whole["mix", "single_turn"] == 6 > right["mix", "single_turn"]


def test_a_run_that_was_not_evaluated_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run other has no evaluation"):
        gather(open_storage(str(tmp_path)), "other")


def test_what_was_not_asked_is_not_hidden_in_a_share_of_the_rest(storage: Storage) -> None:
    cell = next(cell for cell in gather(storage, "r").cells if (cell.policy, cell.prompt) == ("mix", "multi_turn"))
    assert cell.count == "8"
    assert replace(cell, records=cell.records[:5]).count == "5 of 8"
    assert (
        replace(cell, records=[*cell.records[:5], replace(cell.records[0], sample=1)]).count == "6 (5 of 8 questions)"
    )


def test_every_sample_of_every_cell_is_a_line_for_other_tools(storage: Storage, html: str) -> None:
    lines = [json.loads(line) for line in storage.read("runs/r/evaluation/samples.jsonl").decode().splitlines()]
    assert len(lines) == 4 * len(SCENES) + 2 * 3
    grpo = [line for line in lines if (line["dataset"], line["policy"]) == ("vstar/test", "grpo")]
    assert sorted((line["example_id"], line["sample"]) for line in grpo) == [
        (example.example_id, number) for example in SCENES[:3] for number in range(2)
    ]
    assert {"correct", "outcome", "stop", "answer", "tags", "image"} <= lines[0].keys()
