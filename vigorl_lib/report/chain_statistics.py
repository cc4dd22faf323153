"""The statistics of a search and its chains, as figures and charts of the report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape

from vigorl_lib.report.svg import Line, line_chart

MAX_LINES = 4
"""The page has as many colours for curves."""

_SUCCESS = re.compile(r"success_at_(\d+)(?:_depth_(\d+))?")


def render_statistics(statistics: Mapping[str, float], titles: Mapping[str, str]) -> str:
    """Figures that `titles` names, success@k by depth, and how long chains are; empty without statistics."""
    if not statistics:
        return ""
    figures = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{_text(name, statistics[name])}</dd></div>"
        for name, title in titles.items()
        if name in statistics
    )
    counts = (
        _counts(statistics, "chains_turns_", "Multi-turn chains by turns"),
        _counts(statistics, "chains_points_", "Chains by points"),
    )
    sizes = f'<figure class="chart costs">{"".join(counts)}</figure>' if any(counts) else ""
    return f'<dl class="figures">{figures}</dl><div class="charts">{_success(statistics)}{sizes}</div>'


def _text(name: str, value: float) -> str:
    return f"{value:.1%}" if name.endswith("_rate") else f"{value:,.4g}"


def _success(statistics: Mapping[str, float]) -> str:
    by_depth: dict[int, list[tuple[float, float]]] = {}
    for name, value in statistics.items():
        if match := _SUCCESS.fullmatch(name):
            # Rollouts of all depths stand before those of the first.
            by_depth.setdefault(int(match[2]) if match[2] else -1, []).append((float(match[1]), value))
    lines = [
        Line("all rollouts" if depth < 0 else f"from depth {depth}", sorted(points), f"c{number}")
        for number, (depth, points) in enumerate(sorted(by_depth.items())[:MAX_LINES], 1)
    ]
    note = "Chance that one of k rollouts of a tree is right; depth is that of the node they branched off at."
    return line_chart("success@k by depth", "k", lines, percent=True, note=note)


def _counts(statistics: Mapping[str, float], prefix: str, title: str) -> str:
    """One bar for each number that the names with this prefix end in."""
    counts = {int(name.removeprefix(prefix)): n for name, n in statistics.items() if name.startswith(prefix)}
    if not counts:
        return ""
    most = max(counts.values())
    rows = "".join(
        f'<tr><th scope="row">{number}</th><td>{count:,.0f}</td>'
        f'<td class="axis"><span class="cost c1" style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for number, count in sorted(counts.items())
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{rows}</tbody></table>"
