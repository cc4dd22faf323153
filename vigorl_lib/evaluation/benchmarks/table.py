"""The benchmarks' results: a row per benchmark and prompt with the paper's numbers beside it, categories below.

Pure functions of sample records; measuring is `vigorl_lib.evaluation.run`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from vigorl_lib.evaluation.benchmarks import BENCHMARKS
from vigorl_lib.evaluation.benchmarks.paper import paper_rows
from vigorl_lib.evaluation.benchmarks.spec import Benchmark
from vigorl_lib.evaluation.metrics import CUT_OFF, NOT_PARSEABLE, SampleRecord, accuracy, split_by
from vigorl_lib.evaluation.table import Cells, percent

Results = Mapping[str, Cells]
"""Cells (policy and prompt) by benchmark."""

CROSS = " × "
"""Stands between the tags, and the values, of a combination."""

FIGURES = ("n", "accuracy", "not parseable", "cut off")
HEADER = ("benchmark", "policy", "prompt", *FIGURES, "paper")
CATEGORY_HEADER = ("benchmark", "policy", "prompt", "category", "value", *FIGURES)


def render_results(results: Results, *, markdown: bool = False) -> str:
    """The table, and below it that of the categories, as plain text or Markdown; percent with 95 % intervals."""
    whole, parts = _rows(results), _category_rows(results)
    tables = [[list(HEADER), *whole], *([[list(CATEGORY_HEADER), *parts]] if parts else [])]
    return "\n\n".join(map(_markdown if markdown else _plain, tables))


def _plain(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def results_to_json(results: Results) -> list[dict[str, Any]]:
    """One object per row: benchmark, policy, prompt, metric, figures, the same by category, and the paper's rows."""
    return [
        {
            "benchmark": name,
            "policy": policy,
            "prompt": prompt,
            "metric": BENCHMARKS[name].metric,
            "accuracy": asdict(accuracy(records)),
            "not_parseable": _unreadable(records),
            "cut_off": _cut_off(records),
            "by_category": {
                category: {value: asdict(accuracy(part)) for value, part in parts.items()}
                for category, parts in categories(BENCHMARKS[name], records).items()
            },
            "mean_of_categories": {
                category: mean_accuracy(parts) for category, parts in categories(BENCHMARKS[name], records).items()
            },
            "paper": [asdict(row) for row in paper_rows(name)],
        }
        for name, cells in results.items()
        for (policy, prompt), records in cells.items()
    ]


def categories(benchmark: Benchmark, records: Sequence[SampleRecord]) -> dict[str, dict[str, list[SampleRecord]]]:
    """Records by the values of each of the benchmark's tags, and by the combinations of those that are crossed.

    Tags that no record has are left out.
    """
    found = {tag: split_by(records, tag) for tag in benchmark.tags}
    if benchmark.crossed:
        combined: dict[str, list[SampleRecord]] = {}
        for record in records:
            if all(tag in record.tags for tag in benchmark.crossed):
                combined.setdefault(CROSS.join(record.tags[tag] for tag in benchmark.crossed), []).append(record)
        found[CROSS.join(benchmark.crossed)] = dict(sorted(combined.items()))
    return {category: parts for category, parts in found.items() if parts}


def mean_accuracy(parts: Mapping[str, Sequence[SampleRecord]]) -> float:
    """Mean of the categories' accuracies, each counted alike, as BLINK and RoboSpatial report theirs."""
    return fmean(accuracy(part).value for part in parts.values())


def _rows(results: Results) -> list[list[str]]:
    return [
        [name, policy, prompt, *_figures(records), ", ".join(map(str, paper_rows(name, prompt))) or "-"]
        for name, cells in results.items()
        for (policy, prompt), records in cells.items()
    ]


def _category_rows(results: Results) -> list[list[str]]:
    """A row for each value of a category, and their mean; none where all records have the same value."""
    rows = []
    for name, cells in results.items():
        for (policy, prompt), records in cells.items():
            for category, parts in categories(BENCHMARKS[name], records).items():
                if len(parts) > 1:
                    cell = [name, policy, prompt, category]
                    rows += [[*cell, value, *_figures(part)] for value, part in parts.items()]
                    rows.append([*cell, f"mean of {len(parts)}", "", f"{100 * mean_accuracy(parts):.1f}", "", ""])
    return rows


def _figures(records: Sequence[SampleRecord]) -> list[str]:
    shares = (f"{100 * count / max(1, len(records)):.1f}" for count in (_unreadable(records), _cut_off(records)))
    return [str(len(records)), percent(accuracy(records)), *shares]


def _unreadable(records: Sequence[SampleRecord]) -> int:
    return sum(record.outcome in NOT_PARSEABLE for record in records)


def _cut_off(records: Sequence[SampleRecord]) -> int:
    return sum(record.stop in CUT_OFF for record in records)
