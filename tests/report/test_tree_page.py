"""The page of one search tree: complete, self-contained, safe, and the same for the same tree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import HOSTILE, Run
from tests.report.test_run import Page
from vigorl_lib.cli.report import write_tree_page
from vigorl_lib.domain.example import Example
from vigorl_lib.errors import DataError
from vigorl_lib.report.tree_page import POLICY, render_tree_page
from vigorl_lib.search.journal import read_trees
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def tree(run: Run) -> Tree:
    trees = read_trees(run.storage, RunLayout(run.storage, run.recipe.run_id).search())
    return max(trees, key=lambda tree: len(tree.nodes))


def example_of(run: Run, tree: Tree) -> Example:
    return next(example for example in run.examples if example.example_id == tree.example_id)


def data_of(html: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    found: dict[str, Any] = json.loads(match[1])
    return found


@pytest.fixture(scope="module")
def html(run: Run, tree: Tree) -> str:
    return render_tree_page(tree, example_of(run, tree), ImageStore(run.storage).load)


def test_the_page_holds_the_whole_tree(html: str, tree: Tree) -> None:
    data = data_of(html)
    assert len(data["nodes"]) == len(tree.nodes) > 4
    for node, shown in zip(tree.nodes, data["nodes"], strict=True):
        assert shown["parent"] == (node.parent.index if node.parent else None)
        assert shown["visits"] == node.visit_count
        assert shown["value"] == pytest.approx(node.value, abs=1e-4)
        if node.prefix.record is not None:
            assert shown["turn"]["thought"] == node.prefix.record.turn.thought
    assert data["nodes"][0]["best"]
    shown_rollouts = [(k, one["value"]) for k, node in enumerate(data["nodes"]) for one in node["rollouts"]]
    assert sorted(shown_rollouts) == sorted((rollout.node, rollout.value) for rollout in tree.rollouts)
    for rollout in tree.rollouts:
        depth = tree.nodes[rollout.node].prefix.depth
        ends = [one["turns"] for one in data["nodes"][rollout.node]["rollouts"]]
        rest = [record.turn.thought for record in rollout.trajectory.turns[depth:]]
        assert rest in [[turn["thought"] for turn in turns] for turns in ends]


def test_places_are_shares_of_the_image_and_crops_stand_once(html: str, tree: Tree) -> None:
    data = data_of(html)
    turns = [node["turn"] for node in data["nodes"] if "turn" in node]
    turns += [turn for node in data["nodes"] for one in node["rollouts"] for turn in one["turns"]]
    zooms = [turn for turn in turns if "zoom" in turn]
    assert zooms
    for turn in zooms:
        _, _, x, y = turn["zoom"]
        left, top, width, height = turn["window"]
        # Windows at the border are moved inside, so the point need not be the middle, but it is in there.
        assert left <= x <= left + width
        assert top <= y <= top + height
        assert turn["crop"] in data["images"]
    assert set(data["images"]) == {turn["crop"] for turn in turns if "crop" in turn}
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in [data["scene"], *data["images"].values()])
    assert html.count(next(iter(data["images"].values()))) == 1


def test_the_page_loads_nothing_and_cannot(html: str) -> None:
    page = Page(html)
    assert page.loads == []
    assert page.tags.count("script") == 2
    assert f'content="{POLICY}"' in html
    assert "url(" not in html
    assert "@import" not in html
    assert "innerHTML" not in html


def test_texts_cannot_end_the_data_or_become_markup(run: Run, tree: Tree) -> None:
    example = replace(example_of(run, tree), question=HOSTILE)
    html = render_tree_page(replace(tree, policy=HOSTILE), example, ImageStore(run.storage).load)
    assert Page(html).tags.count("script") == 2
    assert data_of(html)["question"] == HOSTILE
    assert "<b onclick" not in html


def test_the_command_writes_the_tree_of_an_example_or_the_largest(run: Run, tree: Tree, html: str) -> None:
    key = write_tree_page(run.storage, run.recipe, tree.example_id)
    assert key == f"runs/{run.recipe.run_id}/trees/{tree.example_id}.html"
    assert run.storage.read(key).decode() == html
    assert len(data_of(run.storage.read(write_tree_page(run.storage, run.recipe, None)).decode())["nodes"]) == len(
        tree.nodes
    )
    with pytest.raises(DataError, match="no tree of example nobody"):
        write_tree_page(run.storage, run.recipe, "nobody")


def in_browser(html: str, script: str, folder: Path) -> Any:
    """What a script that runs behind the page's own leaves, as JSON, in the document's title."""
    assert CHROMIUM is not None
    page = folder / "tree.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder}/profile",
        "--window-size=1400,900",
    )
    command = [CHROMIUM, *options, "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    match = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert match is not None
    return json.loads(unescape(match[1]))


WALK = """
const press = (key) => list.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const said = [];
const note = () => said.push([chosen.index, rows.length]);
note(); press("ArrowRight"); note(); press("ArrowDown"); note(); press("Home"); press("ArrowLeft"); note();
press("ArrowRight"); press("End"); note();
const active = document.getElementById(list.getAttribute("aria-activedescendant"));
document.title = JSON.stringify({ said, selected: active.getAttribute("aria-selected"),
  detail: detail.textContent, level: active.getAttribute("aria-level") });
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_keyboard_walks_the_tree(html: str, tree: Tree, tmp_path: Path) -> None:
    """In a real browser: right is the first child, down the next row, left folds, End is the last row."""
    found = in_browser(html, WALK, tmp_path)
    total = len(tree.nodes)
    first = tree.root.children[0]
    second = first.children[0] if first.children else tree.root.children[1]
    last = tree.root
    while last.children:
        last = last.children[-1]
    assert found["said"] == [[0, total], [first.index, total], [second.index, total], [0, 1], [last.index, total]]
    assert found["selected"] == "true"
    assert found["level"] == str(len(last.path()))
    assert last.prefix.record is not None
    assert last.prefix.record.turn.thought.strip() in found["detail"]


TIME = """
const start = performance.now();
for (let k = 0; k < 100; k++) choose(nodes[(k * 37) % nodes.length]);
document.title = JSON.stringify({ ms: (performance.now() - start) / 100, inDocument: space.children.length,
  nodes: nodes.length });
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_two_thousand_nodes_stay_quick(run: Run, tree: Tree, tmp_path: Path) -> None:
    large = Tree(tree.tree_id, tree.example_id, tree.policy)
    large.open(tree.root.prefix)
    turns = [node.prefix for node in tree.nodes[1:]]
    for k in range(667):
        large.simulate(large.nodes[k], [turns[(3 * k + j) % len(turns)] for j in range(3)], [])
    html = render_tree_page(large, example_of(run, tree), ImageStore(run.storage).load)
    found = in_browser(html, TIME, tmp_path)
    print(f"\n{found['nodes']} nodes: {found['ms']:.1f} ms a choice, {found['inDocument']} rows in the document")
    assert found["nodes"] == 2002
    assert found["inDocument"] < 60
    assert found["ms"] < 100
