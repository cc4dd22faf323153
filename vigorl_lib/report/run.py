"""`report.html`, `results.json` and `results.txt` of a quickstart run, from what its stages left in storage.

Everything shown was measured in that run. The page says what was scripted and what is a crutch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.evaluation.metrics import SampleRecord, accuracy, compare, split_by, summarize
from vigorl_lib.evaluation.run import read_kept_trajectories, read_records
from vigorl_lib.evaluation.table import SPLIT_TAG, cells_to_json, comparison, comparisons_to_json, render_table
from vigorl_lib.jobs.stages import StageRecord
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.report import page
from vigorl_lib.report.draw import marks_of, picture_uri
from vigorl_lib.report.svg import Series, line_chart, smoothed
from vigorl_lib.report.trajectory import render_trajectory
from vigorl_lib.report.tree import render_tree
from vigorl_lib.search.journal import read_trees
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.metrics import read_metrics

SINGLE, MULTI = "single_turn", "multi_turn"
NAMES = {
    "captions": "captions only",
    "sft": "two-turn SFT",
    "mix": "mixed SFT (start of GRPO)",
    "grpo": "GRPO",
}
"""What the rows are called."""

CASES, TREES = 8, 2

NOTE = (
    '<div class="note"><b>What to know before reading the numbers.</b> The scenes are synthetic and their background '
    "is a colour ramp, so that a patch's own look tells where it lies: a crutch, without which a model this small does "
    "not learn to point in this time. The trees were searched with a <b>scripted teacher</b> that knows each scene; it "
    "explores and errs at set rates. The model starts from random weights, so these numbers show that the mechanism "
    "works, not what a pretrained model can do. Questions of the test split come from scenes that no stage has "
    "seen.</div>"
)


@dataclass(frozen=True, slots=True)
class _Run:
    storage: Storage
    images: ImageStore
    recipe: Recipe
    policies: Sequence[str]
    cells: dict[tuple[str, str], list[SampleRecord]]

    def layout(self, stage: str = "") -> RunLayout:
        return RunLayout(self.storage, f"{self.recipe.run_id}/{stage}" if stage else self.recipe.run_id)


def write_report(
    storage: Storage, recipe: Recipe, *, policies: Sequence[str], stages: Sequence[StageRecord]
) -> dict[str, Any]:
    """Write the three files under the run and return the results."""
    root = RunLayout(storage, recipe.run_id).root
    cells = {
        (policy, mode): sorted(read_records(storage, f"{root}/evaluation/{policy}/{mode}"), key=lambda r: r.example_id)
        for policy in policies
        for mode in recipe.evaluation.modes
    }
    run = _Run(storage, ImageStore(storage), recipe, policies, cells)
    comparisons = _comparisons(run)
    results = {
        "seed": recipe.seed,
        "cells": cells_to_json(cells),
        "comparisons": comparisons,
        "stages": [{"name": s.name, "wall_s": s.wall_s, "cpu_s": s.cpu_s, "figures": s.figures} for s in stages],
    }
    text = render_table({(NAMES.get(p, p), m): records for (p, m), records in cells.items()})
    storage.write(f"{root}/results.json", json.dumps(results, indent=2).encode())
    storage.write(f"{root}/results.txt", f"{text}\n\n{_comparison_lines(comparisons)}".encode())
    sections = [
        ("Results", _results_table(run) + _comparison_table(comparisons)),
        ("Learning", _curves(run)),
        ("The same questions, before and after GRPO", _gallery(run)),
        ("Search trees", _trees(run)),
        ("What it cost", _costs(stages)),
    ]
    document = page.page("ViGoRL quickstart", _lead(run), sections)
    storage.write(f"{root}/report.html", document.encode())
    return results


def _lead(run: _Run) -> str:
    small = compare(_small(run, "grpo", MULTI), _small(run, "grpo", SINGLE))
    gain = compare(run.cells["grpo", MULTI], run.cells["mix", MULTI])
    before, after = summarize(run.cells["mix", MULTI]), summarize(run.cells["grpo", MULTI])
    cards = [
        page.card(f"{accuracy(run.cells['grpo', MULTI]).value:.1%}", "of all test questions right after GRPO, greedy"),
        page.card(f"{100 * small.difference:+.1f} points", "zooming against one look, on small targets"),
        page.card(f"{100 * gain.difference:+.1f} points", "GRPO against the policy that it started from"),
        page.card(
            f"{before['zoom_rate']:.0%} → {after['zoom_rate']:.0%}", "of greedy answers zoom, before and after GRPO"
        ),
    ]
    n = len(next(iter(run.cells.values())))
    return (
        '<p class="soft">A tiny Qwen2.5-VL, initialised at random on this machine, learns to point, to zoom into the '
        f"original picture and to read what it finds there. {n} test questions, half of them about targets whose "
        "dot the first view cannot resolve.</p>"
        f'<div class="cards">{"".join(cards)}</div>{NOTE}'
    )


def _small(run: _Run, policy: str, mode: str) -> list[SampleRecord]:
    return split_by(run.cells[policy, mode], SPLIT_TAG).get("small", [])


def _results_table(run: _Run) -> str:
    values = sorted({v for records in run.cells.values() for v in split_by(records, SPLIT_TAG)})
    rows, lead = [], []
    for k, ((policy, mode), records) in enumerate(run.cells.items()):
        figures, parts = summarize(records), split_by(records, SPLIT_TAG)
        if (policy, mode) == ("grpo", MULTI):
            lead.append(k)
        rows.append(
            [
                NAMES.get(policy, policy),
                mode.replace("_", " "),
                str(len(records)),
                page.share(accuracy(records)),
                *(page.share(accuracy(parts[v])) if v in parts else "–" for v in values),
                f"{figures['zoom_rate']:.0%}",
                f"{figures['turns']:.2f}",
                page.number(figures["hit_rate"], ".0%"),
                page.number(figures["point_error_median_px"], ".1f"),
            ]
        )
    header = ["policy", "mode", "n", "accuracy %", *(f"{v} %" for v in values)]
    header += ["zooms", "turns", "hit", "error px"]
    outcomes = [
        [
            f"{NAMES.get(policy, policy)}, {mode.replace('_', ' ')}",
            _shares(figures, "outcome/"),
            _shares(figures, "stop/"),
        ]
        for (policy, mode), records in run.cells.items()
        for figures in [summarize(records)]
    ]
    return page.table(header, rows, lead_rows=lead) + (
        '<p class="soft">Greedy answers; 95 % Wilson intervals. Four answers are possible, so chance is 25 %. '
        "<i>hit</i>: the last zoom shows the target, or the last cited point lies on it; <i>error</i>: median distance "
        "of that point to the target's middle, in pixels of the model's view.</p>"
        f"<details><summary>How answers came out and why conversations ended</summary>"
        f"{page.table(['policy, mode', 'outcome', 'stop'], outcomes)}</details>"
    )


def _shares(figures: dict[str, float], prefix: str) -> str:
    return ", ".join(
        f"{name.removeprefix(prefix).replace('_', ' ')} {value:.0%}"
        for name, value in figures.items()
        if name.startswith(prefix)
    )


def _comparisons(run: _Run) -> list[dict[str, Any]]:
    samples = run.recipe.evaluation.bootstrap_samples
    wanted = [
        (("grpo", MULTI), ("mix", MULTI), ""),
        (("grpo", MULTI), ("sft", MULTI), ""),
        (("grpo", MULTI), ("grpo", SINGLE), "small"),
        (("sft", MULTI), ("sft", SINGLE), "small"),
        (("sft", MULTI), ("captions", MULTI), ""),
    ]
    comparisons = [
        comparison(run.cells, first, second, examples=examples, samples=samples)
        for first, second, examples in wanted
        if first in run.cells and second in run.cells
    ]
    return comparisons_to_json(comparisons)


def _comparison_table(comparisons: Sequence[dict[str, Any]]) -> str:
    rows = []
    for c in comparisons:
        points = f"{100 * c['difference']:+.1f} <small>[{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]</small>"
        sides = f"{c['only_first']} : {c['only_second']}"
        row = [_cell(c["first"]), _cell(c["second"]), c["examples"], str(c["n"]), points, sides, f"{c['p_value']:.1e}"]
        rows.append(row)
    header = ["this", "against", "examples", "pairs", "points", "only this : only that", "McNemar p"]
    return "<h3>Pair by pair</h3>" + page.table(header, rows)


def _cell(names: Sequence[str]) -> str:
    return f"{NAMES.get(names[0], names[0])}, {names[1].replace('_', ' ')}"


def _comparison_lines(comparisons: Sequence[dict[str, Any]]) -> str:
    return "\n".join(
        f"{_cell(c['first'])} − {_cell(c['second'])} ({c['examples']}, n={c['n']}): "
        f"{100 * c['difference']:+.1f} points [{100 * c['low']:+.1f}, {100 * c['high']:+.1f}]"
        for c in comparisons
    )


def _curves(run: _Run) -> str:
    def series(stage: str, name: str) -> list[tuple[float, float]]:
        return [(float(r["step"]), float(r[name])) for r in read_metrics(run.layout(stage)) if name in r]

    losses = [
        Series(name, smoothed(series(stage, "loss"), 20), style)
        for stage, name, style in (
            ("captions", "captions", "c1"),
            ("sft", "two-turn SFT", "c2"),
            ("mix", "mixed", "c3"),
        )
    ]
    steps = len(read_metrics(run.layout("grpo")))
    greedy = []
    for x, policy in ((0, "mix"), (steps, "grpo")):
        share = accuracy(run.cells[policy, MULTI])
        greedy.append((float(x), share))
    rollouts = [
        Series("right, sampled", smoothed(series("grpo", "outcome_correct"), 5), "c1"),
        Series("zooms, sampled", smoothed(series("grpo", "zoom_rate"), 5), "c2"),
        Series(
            "right, greedy on test",
            [(x, s.value) for x, s in greedy],
            "c3",
            [(x, s.low, s.high) for x, s in greedy],
        ),
    ]
    more = [Series("zero-variance groups", smoothed(series("grpo", "zero_variance_share"), 5), "c4")]
    charts = [
        line_chart("Loss per trained token", "optimiser step", losses),
        line_chart("GRPO: what the sampled rollouts do", "step", rollouts, percent=True),
        line_chart("GRPO: groups that teach nothing", "step", more, percent=True),
    ]
    return f'<div class="charts">{"".join(charts)}</div>'


def _gallery(run: _Run) -> str:
    before = _kept(run, "mix")
    after = _kept(run, "grpo")
    examples = read_dataset(
        run.storage, run.images, run.recipe.dataset.name, "test", run.recipe.evaluation.keep_trajectories or None
    )
    both = [e for e in examples if e.example_id in before and e.example_id in after]
    cases = [_case(e, before[e.example_id], after[e.example_id]) for e in _telling(both, before, after)]
    return (
        '<p class="soft">Green: the target. White: what a zoom showed. Numbers: points in the order of the turns '
        "(GRPO's). Chosen to show changes and mistakes, not at random.</p>" + "".join(cases)
    )


def _kept(run: _Run, policy: str) -> dict[str, Trajectory]:
    prefix = f"{run.layout().root}/evaluation/{policy}/{MULTI}"
    return {t.example_id: t for t in read_kept_trajectories(run.storage, prefix, run.images)}


def _telling(examples: Sequence[Example], before: dict[str, Trajectory], after: dict[str, Trajectory]) -> list[Example]:
    """Some of each kind: put right by GRPO, right in both, wrong after it; small targets first."""

    def kind(example: Example) -> tuple[bool, bool]:
        name = example.example_id
        return before[name].outcome == "correct", after[name].outcome == "correct"

    ordered = sorted(examples, key=lambda e: e.tags.get(SPLIT_TAG) != "small")
    chosen: list[Example] = []
    for wanted, count in (((False, True), 4), ((True, True), 2), ((False, False), 1), ((True, False), 1)):
        chosen += islice((e for e in ordered if kind(e) == wanted), count)
    return chosen[:CASES]


def _case(example: Example, before: Trajectory, after: Trajectory) -> str:
    image = example.images[0]
    picture = picture_uri(image, marks_of(after, image.size, example.truth.evidence))
    tag = example.tags.get(SPLIT_TAG, "")
    question = f"<p>{example.question}<br><small>truth: {example.truth.answer} · {tag} target</small></p>"
    answers = render_trajectory(before, NAMES["mix"]) + render_trajectory(after, NAMES["grpo"])
    return (
        f'<div class="case"><div><img class="whole" src="{picture}" alt="scene, points after GRPO">{question}</div>'
        f'<div class="answers">{answers}</div></div>'
    )


def _trees(run: _Run) -> str:
    parts = []
    for title, run_id, policy in (
        ("Scripted teacher", run.recipe.run_id, "scripted"),
        ("Fine-tuned student", f"{run.recipe.run_id}-student", "student"),
    ):
        layout = RunLayout(run.storage, run_id)
        trees = list(read_trees(run.storage, layout.search()))
        if not trees:
            continue
        solved = sum(tree.solved for tree in trees) / len(trees)
        calls = sum(len(tree.rollouts) for tree in trees) / len(trees)
        parts.append(
            f"<h3>{title}</h3><p>{len(trees)} trees, {solved:.1%} solved, {calls:.1f} rollouts a tree "
            f"({policy} policy).</p>"
        )
        largest = sorted(trees, key=lambda tree: -len(tree.nodes))[:TREES]
        for tree in largest:
            root = tree.root.prefix.segments[0]
            question = root.messages[-1].text.strip()
            image = run.images.load(root.images[0])
            marks = marks_of(tree.rollouts[0].trajectory, image.size)
            parts.append(
                f"<details open><summary>{question}</summary>"
                f'<div class="treecase"><img src="{picture_uri(image, marks)}" alt="scene of the first rollout">'
                f"<div>{render_tree(tree)}</div></div></details>"
            )
    return "".join(parts)


def _costs(stages: Sequence[StageRecord]) -> str:
    rows = [[stage.name, f"{stage.wall_s:.1f}", f"{stage.cpu_s:.1f}"] for stage in stages]
    rows.append(["all", f"{sum(s.wall_s for s in stages):.1f}", f"{sum(s.cpu_s for s in stages):.1f}"])
    return page.table(["stage", "wall s", "CPU s"], rows, lead_rows=[len(rows) - 1])
