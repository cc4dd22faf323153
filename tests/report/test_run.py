"""The report of a small run: complete, self-contained, repeatable, and safe against what its texts contain."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.conftest import HOSTILE, POLICIES, STAGES, Run
from vigorl_lib.cli.common import resolve
from vigorl_lib.report.content import Case, Report
from vigorl_lib.report.page import render_page
from vigorl_lib.report.run import write_report
from vigorl_lib.storage.base import open_storage

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what a browser would load and jump to, and checks that elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.unlabelled: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(str(values["id"]))
        if tag == "a":
            self.links.append(str(values["href"]))
        else:
            self.loads += [str(values[name]) for name in ("src", "href") if name in values]
        if (tag == "img" and not values.get("alt")) or (values.get("role") == "img" and not values.get("aria-label")):
            self.unlabelled.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    write_report(run.storage, run.recipe, policies=POLICIES, stages=STAGES)
    return run.storage.read("runs/quickstart/report.html").decode()


def test_page_is_well_formed_and_loads_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert page.loads
    assert all(load.startswith("data:image/jpeg;base64,") for load in page.loads)
    assert "script" not in page.tags
    assert "url(" not in html
    assert "@import" not in html


def test_every_picture_has_a_text_and_every_link_a_target(html: str) -> None:
    page = Page(html)
    assert page.unlabelled == []
    assert set(page.links) == {f"#{name}" for name in page.ids}
    assert page.ids == ["one-question", "results", "learning", "answers", "search", "chains", "costs"]


def test_page_names_the_crutch_and_the_script(html: str) -> None:
    assert "colour ramp" in html
    assert "scripted-teacher" in html


def test_the_same_run_gives_the_same_bytes(run: Run, html: str) -> None:
    write_report(run.storage, run.recipe, policies=POLICIES, stages=STAGES)
    assert run.storage.read("runs/quickstart/report.html").decode() == html


def test_results_stand_in_json_and_in_text(run: Run, html: str) -> None:
    results = json.loads(run.storage.read("runs/quickstart/results.json"))
    cells = {(cell["policy"], cell["mode"]): cell for cell in results["cells"]}
    assert set(cells) == {(p, m) for p in ("mix", "grpo") for m in ("single_turn", "multi_turn")}
    assert cells["grpo", "multi_turn"]["accuracy"]["value"] == 1.0
    first = results["comparisons"][0]
    assert (first["first"], first["second"], first["n"]) == (["grpo", "multi_turn"], ["mix", "multi_turn"], 6)
    assert first["difference"] == 1.0 - cells["mix", "multi_turn"]["accuracy"]["value"]
    assert [stage["name"] for stage in results["stages"]] == ["search", "grpo"]
    text = run.storage.read("runs/quickstart/results.txt").decode()
    assert "100.0 [61.0, 100.0]" in text
    assert f"{100 * first['difference']:+.1f} points" in text


def test_a_run_that_has_hardly_begun_has_a_report_too(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_report(storage, resolve("quickstart", (f"root={tmp_path}",)), policies=POLICIES, stages=STAGES[:1])
    page = Page(storage.read("runs/quickstart/report.html").decode())
    assert page.ids == ["costs"]


def test_texts_cannot_become_markup(run: Run) -> None:
    """Questions, thoughts, answers and names come from data sets and models, and may hold anything."""
    from vigorl_lib.evaluation.run import read_kept_trajectories

    example = replace(run.examples[4], question=HOSTILE, truth=replace(run.examples[4].truth, answer=HOSTILE))
    example = replace(example, tags={HOSTILE: HOSTILE})
    kept = read_kept_trajectories(run.storage, "runs/quickstart/evaluation/mix/single_turn")[0]
    turn = replace(kept.turns[0], turn=replace(kept.turns[0].turn, thought=f"{HOSTILE} (1, 2)"), detail=HOSTILE)
    trajectory = replace(kept, turns=(turn,), outcome=HOSTILE, reward_parts={HOSTILE: 1.0})
    report = Report(HOSTILE, HOSTILE, HOSTILE, 0, cases=[Case(example, [(HOSTILE, trajectory)])])
    html = render_page(report)
    page = Page(html)
    assert "script" not in page.tags
    assert "<b onclick" not in html
