"""`report.html`, `results.json` and `results.txt` of a quickstart run, from what its stages left in storage.

Everything shown was measured in that run. This module gathers; what the parts are called is
`vigorl_lib.report.quickstart`, how they look `vigorl_lib.report.page`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import read_kept_trajectories, read_records
from vigorl_lib.evaluation.table import SPLIT_TAG, cells_to_json, comparison, comparisons_to_json, render_table
from vigorl_lib.jobs.stages import StageRecord
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.report import quickstart as story
from vigorl_lib.report.chain import with_bytes
from vigorl_lib.report.content import Case, Greedy, Metrics, Report, SearchPart
from vigorl_lib.report.page import render_page
from vigorl_lib.report.results import comparison_lines
from vigorl_lib.reward.base import RewardOutcome
from vigorl_lib.search.archive import read_run
from vigorl_lib.search.linearize import kind_of
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.metrics import read_metrics

TREES = 2
"""Trees shown of each search."""
CASES = (
    (("small", False, True), 3),
    (("large", False, True), 1),
    (("large", True, True), 1),
    (("small", False, False), 1),
    (("large", False, False), 1),
    (("small", True, False), 1),
)
"""How many questions of each size are shown, by whether they were right before and after GRPO."""


def write_report(
    storage: Storage, recipe: Recipe, *, policies: Sequence[str], stages: Sequence[StageRecord]
) -> dict[str, Any]:
    """Write the three files under the run and return the results."""
    layout = RunLayout(storage, recipe.run_id)
    report = _Gather(storage, recipe).report(policies, stages)
    results = {
        "seed": recipe.seed,
        "cells": cells_to_json(report.cells),
        "comparisons": comparisons_to_json(report.comparisons),
        "stages": [asdict(stage) for stage in stages],
    }
    table = render_table({(report.name(policy), mode): records for (policy, mode), records in report.cells.items()})
    storage.write(f"{layout.root}/results.json", json.dumps(results, indent=2).encode())
    storage.write(f"{layout.root}/results.txt", f"{table}\n\n{comparison_lines(report)}".encode())
    storage.write(layout.report, render_page(report).encode())
    return results


class _Gather:
    """Reads the parts of one run."""

    def __init__(self, storage: Storage, recipe: Recipe) -> None:
        self.storage = storage
        self.recipe = recipe
        self.images = ImageStore(storage)

    def report(self, policies: Sequence[str], stages: Sequence[StageRecord]) -> Report:
        cells = dict(self._cells(policies))
        rollouts = self._metrics("grpo")
        return Report(
            title=story.TITLE,
            lead=story.LEAD,
            run_id=self.recipe.run_id,
            seed=self.recipe.seed,
            notes=story.NOTES,
            headlines=story.headlines(cells),
            cells=cells,
            names=story.NAMES,
            highlighted=story.AFTER,
            comparisons=[
                comparison(cells, first, second, examples=size, samples=self.recipe.evaluation.bootstrap_samples)
                for first, second, size in story.COMPARISONS
                if first in cells and second in cells
            ],
            losses={title: metrics for stage, title in story.LOSSES if (metrics := self._metrics(stage))},
            rollouts=rollouts,
            greedy=[
                Greedy(step, cell) for step, cell in ((0, story.BEFORE), (len(rollouts), story.AFTER)) if cell in cells
            ],
            cases=self._cases(),
            searches=list(self._searches()),
            chains=self._chains(),
            chain_statistics=self._chain_statistics(),
            stages=stages,
        )

    def _layout(self, stage: str = "") -> RunLayout:
        return RunLayout(self.storage, f"{self.recipe.run_id}/{stage}" if stage else self.recipe.run_id)

    def _prefix(self, policy: str, mode: str) -> str:
        return self._layout().evaluation(policy, mode)

    def _cells(self, policies: Sequence[str]) -> Iterator[tuple[tuple[str, str], list[SampleRecord]]]:
        for policy in policies:
            for mode in self.recipe.evaluation.modes:
                records = read_records(self.storage, self._prefix(policy, mode))
                if records:
                    yield (policy, mode), sorted(records, key=lambda record: record.example_id)

    def _metrics(self, stage: str) -> Metrics:
        return read_metrics(self._layout(stage))

    def _cases(self) -> list[Case]:
        """Questions that were answered before and after GRPO, some of each kind."""
        before, after = (self._kept(*cell) for cell in (story.BEFORE, story.AFTER))
        both = before.keys() & after.keys()
        answered = [example for example in self._examples("test") if example.example_id in both] if both else []
        by_kind: dict[tuple[str, bool, bool], list[Example]] = {}
        for example in answered:
            outcomes = (_right(before[example.example_id]), _right(after[example.example_id]))
            by_kind.setdefault((example.tags.get(SPLIT_TAG, ""), *outcomes), []).append(example)
        cases = []
        for kind, count in CASES:
            for example in by_kind.get(kind, [])[:count]:
                answers = [
                    (policy, answers[example.example_id]) for policy, answers in (("mix", before), ("grpo", after))
                ]
                named = [(story.NAMES[policy], self._with_crops(trajectory)) for policy, trajectory in answers]
                cases.append(Case(self._with_images(example), named))
        return cases

    def _kept(self, policy: str, mode: str) -> dict[str, Trajectory]:
        return {t.example_id: t for t in read_kept_trajectories(self.storage, self._prefix(policy, mode))}

    def _with_crops(self, trajectory: Trajectory) -> Trajectory:
        def loaded(record: TurnRecord) -> TurnRecord:
            return replace(record, crop_image=self.images.load(record.crop_image)) if record.crop_image else record

        return replace(trajectory, turns=tuple(map(loaded, trajectory.turns)))

    def _with_images(self, example: Example) -> Example:
        return replace(example, images=tuple(map(self.images.load, example.images)))

    def _examples(self, split: str) -> list[Example]:
        return read_dataset(self.storage, self.images, self.recipe.dataset.name, split, with_images=False)

    def _searches(self) -> Iterator[SearchPart]:
        for suffix, split, title in story.SEARCHES:
            layout = RunLayout(self.storage, f"{self.recipe.run_id}{suffix}")
            telling: list[Tree] = []
            solved, values, policy = [], [], ""
            for tree in read_run(layout):
                solved.append(tree.solved)
                values += [rollout.value for rollout in tree.rollouts]
                policy = tree.policy
                telling = heapq.nlargest(TREES, [*telling, tree], key=_interest)
            if not values:
                continue
            figures = [
                ("policy", policy),
                ("trees", f"{len(solved):,}"),
                ("solved", f"{fmean(solved):.1%}"),
                ("rollouts", f"{len(values):,}"),
                ("right rollouts", f"{fmean(values):.1%}"),
            ]
            wanted = {tree.example_id for tree in telling}
            examples = {e.example_id: e for e in self._examples(split) if e.example_id in wanted}
            pairs = [
                (tree, self._with_images(examples[tree.example_id])) for tree in telling if tree.example_id in examples
            ]
            yield SearchPart(title, figures, pairs)

    def _chains(self) -> list[tuple[str, Trajectory]]:
        """One chain of each kind, from those held out."""
        key = f"{self._layout().chains}/{story.CHAINS}-validation.parquet"
        if not self.storage.exists(key):
            return []
        by_kind: dict[str, Trajectory] = {}
        for chain in read_chains(self.storage, key):
            by_kind.setdefault(kind_of(chain), chain)
        kinds = [(title, by_kind[kind]) for kind, title in story.CHAIN_KINDS if kind in by_kind]
        return [(title, with_bytes(chain, self.images.load)) for title, chain in kinds]

    def _chain_statistics(self) -> dict[str, float]:
        key = f"{self._layout().chains}/{story.CHAINS}.json"
        if not self.storage.exists(key):
            return {}
        statistics: dict[str, float] = json.loads(self.storage.read(key))
        return statistics


def _interest(tree: Tree) -> tuple[bool, int, str]:
    """Trees that went both right and wrong tell most, then large ones; the name makes the choice repeatable."""
    return len({rollout.value >= 1.0 for rollout in tree.rollouts}) > 1, len(tree.nodes), tree.tree_id


def _right(trajectory: Trajectory) -> bool:
    return trajectory.outcome == RewardOutcome.CORRECT
