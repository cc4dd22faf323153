"""The annotation page in a real browser, and its file read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.report.conftest import HOSTILE, Run
from tests.report.test_run import Page
from tests.report.test_tree_page import CHROMIUM, in_browser
from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.evaluation.annotation import read_annotation
from vigorl_lib.evaluation.run import read_kept_trajectories
from vigorl_lib.report.annotation_page import Item, choose, render_annotation_page
from vigorl_lib.report.marks import number_points
from vigorl_lib.storage.images import ImageStore


@pytest.fixture(scope="module")
def items(run: Run) -> list[Item]:
    images = ImageStore(run.storage)
    examples = {e.example_id: e for e in read_dataset(run.storage, images, "visual-search", "test", with_images=False)}
    prefixes = [f"runs/quickstart/evaluation/{name}/multi_turn" for name in ("mix", "grpo")]
    kept = [trajectory for prefix in prefixes for trajectory in read_kept_trajectories(run.storage, prefix)]
    return [(examples[trajectory.example_id], trajectory) for trajectory in kept]


@pytest.fixture(scope="module")
def html(run: Run, items: list[Item]) -> str:
    return render_annotation_page(choose(items, 6, seed=0), ImageStore(run.storage).load)


def test_the_choice_is_repeatable_mixed_and_points_at_something(items: list[Item]) -> None:
    chosen = choose(items, 8, seed=3)
    assert chosen == choose(items[::-1], 8, seed=3)
    assert chosen != choose(items, 8, seed=4)
    assert all(number_points(trajectory) for _, trajectory in chosen)
    order = ["mix" in trajectory.trajectory_id for _, trajectory in chosen]
    assert order not in (sorted(order), sorted(order, reverse=True)), "the order tells nothing of the policy"


def test_the_page_loads_nothing_and_shows_neither_policy_nor_verdict(html: str) -> None:
    page = Page(html.replace("<input ", "<br ").replace("<input>", "<br>"))
    assert all(load.startswith("data:") for load in page.loads)
    assert "default-src 'none'" in html
    assert page.unlabelled == []
    assert 'class="target"' not in html
    assert "scripted" not in html
    assert "chip" not in html.partition("</style>")[2]


def test_texts_of_a_data_set_are_no_markup(run: Run, items: list[Item]) -> None:
    example, trajectory = items[0]
    html = render_annotation_page([(replace(example, question=HOSTILE), trajectory)], ImageStore(run.storage).load)
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)" in html


MARK = """
const all = [...document.querySelectorAll(".place")];
annotator.value = "ana";
for (const input of all[0].querySelectorAll("input")) {
  if (!["no", "4"].includes(input.value)) continue;
  input.checked = true;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
for (const input of document.querySelectorAll("input:checked")) input.checked = false;
fill(JSON.parse(localStorage.getItem(KEY)));
let text, file;
window.Blob = function (parts) { text = parts[0]; };
URL.createObjectURL = () => "blob:none";
HTMLAnchorElement.prototype.click = function () { file = this.download; };
document.getElementById("save").click();
document.title = JSON.stringify({ text, file, again: collect(), places: all.length,
  done: document.getElementById("progress").textContent });
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_marks_are_kept_saved_and_read_back(html: str, items: list[Item], tmp_path: Path) -> None:
    found = in_browser(html, MARK, tmp_path)
    annotation = read_annotation(found["text"], found["file"])
    chosen = choose(items, 6, seed=0)
    assert found["file"] == "annotation-ana.json"
    assert found["again"] == json.loads(found["text"])
    assert found["places"] == sum(len(number_points(trajectory)) for _, trajectory in chosen)
    (mark,) = annotation.marks
    assert (mark.trajectory_id, mark.point) == (chosen[0][1].trajectory_id, "1")
    assert (mark.right, mark.helpful) == (False, 4)
    assert found["done"] == f"{int(len(number_points(chosen[0][1])) == 1)} of 6 done"
