"""The results table: one row per policy and mode, every share with its interval, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vigorl_lib.evaluation.metrics import Proportion, SampleRecord, accuracy, compare, split_by, summarize

Cells = Mapping[tuple[str, str], Sequence[SampleRecord]]
"""Records by (policy, mode)."""

SPLIT_TAG = "size"
"""Tag that the table splits by, where the examples have it."""


def cells_to_json(cells: Cells) -> list[dict[str, Any]]:
    """One object per cell: policy, mode, accuracy with interval, the same by tag value, and all other figures."""
    return [
        {
            "policy": policy,
            "mode": mode,
            "accuracy": asdict(accuracy(records)),
            "by_tag": {value: asdict(accuracy(part)) for value, part in split_by(records, SPLIT_TAG).items()},
            "figures": {name: None if math.isnan(v) else round(v, 4) for name, v in summarize(records).items()},
        }
        for (policy, mode), records in cells.items()
    ]


def comparison(
    cells: Cells, first: tuple[str, str], second: tuple[str, str], *, value: str = "", samples: int = 2000
) -> dict[str, Any]:
    """Paired difference `first` − `second`, over the examples whose tag has `value` if one is given."""
    left, right = cells[first], cells[second]
    if value:
        left, right = split_by(left, SPLIT_TAG)[value], split_by(right, SPLIT_TAG)[value]
    paired = compare(left, right, samples=samples)
    return {"first": list(first), "second": list(second), "examples": value or "all", **asdict(paired)}


def render_table(cells: Cells) -> str:
    """Plain text for a terminal; percent with 95 % Wilson intervals."""
    values = sorted({v for records in cells.values() for v in split_by(records, SPLIT_TAG)})
    header = ["policy", "mode", "n", "accuracy", *values, "zooms", "hit", "error px"]
    rows = [header]
    for (policy, mode), records in cells.items():
        figures, parts = summarize(records), split_by(records, SPLIT_TAG)
        rows.append(
            [
                policy,
                mode,
                str(len(records)),
                percent(accuracy(records)),
                *(percent(accuracy(parts[v])) if v in parts else "-" for v in values),
                f"{figures['zoom_rate']:.0%}",
                _number(figures["hit_rate"], "{:.0%}"),
                _number(figures["point_error_median_px"], "{:.1f}"),
            ]
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * max(map(len, lines)), *lines[1:]])


def percent(share: Proportion) -> str:
    """For example `81.2 [77.9, 84.1]`."""
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)
