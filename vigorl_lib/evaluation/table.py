"""The results table: one row per policy and mode, every share with its interval, as text, Markdown and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vigorl_lib.evaluation.metrics import (
    Paired,
    Proportion,
    SampleRecord,
    accuracy,
    compare,
    of_several,
    split_by,
    split_by_tags,
    summarize,
)

Cell = tuple[str, str]
"""Policy and mode."""
Cells = Mapping[Cell, Sequence[SampleRecord]]

SPLIT_TAG = "size"
"""Tag whose values are columns of the table, where the examples have it."""

APART = ("not parseable", "cut off")
"""Shares that are told beside the accuracy, in percent: they say how much of what is wrong is no wrong answer."""


def cells_to_json(cells: Cells) -> list[dict[str, Any]]:
    """One object per cell: policy, mode, accuracy with interval, the same by tag and value, and all other figures."""
    return [
        {
            "policy": policy,
            "mode": mode,
            "accuracy": asdict(accuracy(records)),
            "by_tag": {
                tag: {value: asdict(accuracy(part)) for value, part in parts.items()}
                for tag, parts in split_by_tags(records).items()
            },
            "figures": {name: None if math.isnan(v) else round(v, 4) for name, v in summarize(records).items()},
        }
        for (policy, mode), records in cells.items()
    ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Cell `first` against cell `second`, over the examples that the tag calls `examples` (empty: all)."""

    first: Cell
    second: Cell
    examples: str
    paired: Paired


def comparison(cells: Cells, first: Cell, second: Cell, *, examples: str = "", samples: int = 2000) -> Comparison:
    """Paired difference of two cells, `first` − `second`."""
    left, right = cells[first], cells[second]
    if examples:
        left, right = (split_by(side, SPLIT_TAG).get(examples, []) for side in (left, right))
    return Comparison(first, second, examples, compare(left, right, samples=samples))


def comparisons_to_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [
        {"first": list(c.first), "second": list(c.second), "examples": c.examples or "all", **asdict(c.paired)}
        for c in comparisons
    ]


def render_table(cells: Cells) -> str:
    """Plain text for a terminal; percent with 95 % Wilson intervals."""
    return _aligned(table_rows(cells))


def render_tags(cells: Cells) -> str:
    """A row for each value of the tags that are no columns of the table; empty where there are none."""
    rows = [
        [policy, mode, tag, value, str(len(part)), percent(accuracy(part)), *_apart(summarize(part))]
        for (policy, mode), records in cells.items()
        for tag, parts in split_by_tags(records).items()
        if tag != SPLIT_TAG
        for value, part in parts.items()
    ]
    return _aligned([["policy", "mode", "tag", "value", "n", "accuracy", *APART], *rows]) if rows else ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def render_markdown(cells: Cells) -> str:
    """The same table for a README."""
    header, *rows = table_rows(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


def table_rows(cells: Cells) -> list[list[str]]:
    """The header, then a row per cell."""
    values = sorted({v for records in cells.values() for v in split_by(records, SPLIT_TAG)})
    several = list(dict.fromkeys(name for records in cells.values() for name in of_several(records)))
    rows = [["policy", "mode", "n", "accuracy", *several, *values, *APART, "zooms", "hit", "error px"]]
    for (policy, mode), records in cells.items():
        figures, parts, shares = summarize(records), split_by(records, SPLIT_TAG), of_several(records)
        rows.append(
            [
                policy,
                mode,
                str(len(records)),
                percent(accuracy(records)),
                *(percent(shares[name]) if name in shares else "-" for name in several),
                *(percent(accuracy(parts[v])) if v in parts else "-" for v in values),
                *_apart(figures),
                f"{figures['zoom_rate']:.0%}",
                _number(figures["hit_rate"], "{:.0%}"),
                _number(figures["point_error_median_px"], "{:.1f}"),
            ]
        )
    return rows


def _apart(figures: Mapping[str, float]) -> list[str]:
    if figures["n"] == 0:
        return ["-"] * len(APART)
    return [f"{100 * figures['not_parseable']:.1f}", f"{100 * figures['cut_off']:.1f}"]


def percent(share: Proportion) -> str:
    """For example `81.2 [77.9, 84.1]`; a dash of nothing."""
    if share.n == 0:
        return "-"
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
