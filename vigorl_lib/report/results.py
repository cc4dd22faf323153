"""The numbers of a report: the results table, the paired comparisons, the learning curves, the costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from vigorl_lib.evaluation.metrics import Proportion, SampleRecord, accuracy, split_by, summarize, wilson
from vigorl_lib.evaluation.table import SPLIT_TAG, Comparison
from vigorl_lib.jobs.stages import StageRecord
from vigorl_lib.report.content import Metrics, Report, mode_name
from vigorl_lib.report.svg import XY, Dots, Line, interval_bar, line_chart, smoothed

LOSS_WINDOW, ROLLOUT_WINDOW = 20, 5
"""Steps that the curves are averaged over."""


def results_table(report: Report) -> str:
    """One row per policy and mode; shares with bars that show their intervals."""
    tags = sorted({tag for records in report.cells.values() for tag in split_by(records, SPLIT_TAG)}, reverse=True)
    head = ["policy", "mode", "accuracy", *tags, "zooms", "turns", "hit", "error", "how it ended"]
    body, before = [], ""
    for (policy, mode), records in report.cells.items():
        figures, parts = summarize(records), split_by(records, SPLIT_TAG)
        shares = "".join(f"<td>{share_cell(parts[tag])}</td>" if tag in parts else "<td>–</td>" for tag in tags)
        numbers = (
            f"{figures['zoom_rate']:.0%}",
            f"{figures['turns']:.2f}",
            _number(figures["hit_rate"], ".0%"),
            _number(figures["point_error_median_px"], ".1f", " px"),
        )
        style = "lead" if (policy, mode) == report.highlighted else ""
        style += " first" if policy != before else ""
        name = escape(report.name(policy)) if policy != before else ""
        body.append(
            f'<tr class="{style.strip()}"><th scope="row">{name}</th><td>{escape(mode_name(mode))}</td>'
            f"<td>{share_cell(records)}</td>{shares}"
            f'{"".join(f"<td class=number>{n}</td>" for n in numbers)}<td class="ends">{ends(records)}</td></tr>'
        )
        before = policy
    return table(head, body, "results")


def comparison_table(report: Report) -> str:
    """Differences over the same questions, on one axis."""
    if not report.comparisons:
        return ""
    edges = [edge for c in report.comparisons for edge in (c.paired.low, c.paired.high)]
    span = (min(0.0, *edges) - 0.04, max(0.0, *edges) + 0.04)
    body = [_comparison(report, comparison, span) for comparison in report.comparisons]
    return table(["", "questions", "difference", "", "only here : only there", "p"], body, "pairs")


def _comparison(report: Report, comparison: Comparison, span: XY) -> str:
    paired = comparison.paired
    clear = "clear" if paired.low > 0 or paired.high < 0 else ""
    bar = interval_bar(paired.difference, paired.low, paired.high, span)
    p = "&lt; 0.0001" if paired.p_value < 1e-4 else f"{paired.p_value:.4f}"
    return (
        f'<tr class="{clear}"><th scope="row">{escape(report.cell_name(comparison.first))}'
        f"<small>against {escape(report.cell_name(comparison.second))}</small></th>"
        f"<td>{escape(comparison.examples or 'all')}, {paired.n}</td>"
        f"<td class=number><b>{100 * paired.difference:+.1f}</b> <small>{100 * paired.low:+.1f} … "
        f'{100 * paired.high:+.1f}</small></td><td class="axis">{bar}</td>'
        f"<td class=number>{paired.only_first} : {paired.only_second}</td><td class=number>{p}</td></tr>"
    )


def charts(report: Report) -> str:
    """Losses of the supervised stages; GRPO's sampled rollouts beside greedy measurements."""
    losses = [
        Line(name, smoothed(_series(metrics, "loss"), LOSS_WINDOW), f"c{k + 1}")
        for k, (name, metrics) in enumerate(report.losses.items())
    ]
    right, zooms = _sampled(report.rollouts, "outcome_correct"), _sampled(report.rollouts, "zoom_rate")
    reward, idle = _sampled(report.rollouts, "reward"), _sampled(report.rollouts, "zero_variance_share")
    note = "Sampled: training questions at the training temperature. Greedy: the test split, with its interval."
    parts = [
        line_chart("Supervised stages: loss per trained token", "optimiser step", losses, logarithmic=True),
        line_chart(
            "GRPO: right answers",
            "step",
            [Line("sampled", right[0], "c1", right[1]), Dots("greedy, test", _greedy(report, accuracy), "c3")]
            if report.rollouts
            else [],
            percent=True,
            note=note,
        ),
        line_chart(
            "GRPO: answers that zoomed first",
            "step",
            [Line("sampled", zooms[0], "c2", zooms[1]), Dots("greedy, test", _greedy(report, _zoomed), "c3")]
            if report.rollouts
            else [],
            percent=True,
        ),
        line_chart(
            "GRPO: reward, and groups that teach nothing",
            "step",
            [Line("mean reward", reward[0], "c1", reward[1]), Line("groups with equal rewards", idle[0], "c4", idle[1])]
            if report.rollouts
            else [],
        ),
    ]
    return f'<div class="charts">{"".join(parts)}</div>' if any(parts) else ""


def costs(stages: Sequence[StageRecord]) -> str:
    """Wall and CPU seconds of every stage, and of all."""
    if not stages:
        return ""
    longest = max(max(stage.wall_s, stage.cpu_s) for stage in stages) or 1.0
    body = [
        f'<tr><th scope="row">{escape(stage.name)}</th><td class=number>{stage.wall_s:.1f}</td>'
        f'<td class=number>{stage.cpu_s:.1f}</td><td class="axis"><span class="cost c1" '
        f'style="width:{100 * stage.wall_s / longest:.1f}%"></span><span class="cost c2" '
        f'style="width:{100 * stage.cpu_s / longest:.1f}%"></span></td></tr>'
        for stage in stages
    ]
    wall, cpu = sum(stage.wall_s for stage in stages), sum(stage.cpu_s for stage in stages)
    body.append(
        f'<tr class="lead"><th scope="row">all</th><td class=number>{wall:.1f}</td><td class=number>{cpu:.1f}</td>'
        '<td class="legend"><span class="key c1">wall</span><span class="key c2">CPU</span></td></tr>'
    )
    return table(["stage", "wall s", "CPU s", ""], body, "costs")


def comparison_lines(report: Report) -> str:
    """The comparisons for a terminal."""
    return "\n".join(
        f"{report.cell_name(c.first)} − {report.cell_name(c.second)} ({c.examples or 'all'}, n={c.paired.n}): "
        f"{100 * c.paired.difference:+.1f} points [{100 * c.paired.low:+.1f}, {100 * c.paired.high:+.1f}]"
        for c in report.comparisons
    )


def share_cell(records: Sequence[SampleRecord]) -> str:
    """Accuracy as a number, its interval, and a bar that shows both."""
    share = accuracy(records)
    return (
        f"<span class=number><b>{100 * share.value:.1f}</b> "
        f"<small>{100 * share.low:.1f} … {100 * share.high:.1f}</small></span>"
        f"{interval_bar(share.value, share.low, share.high)}"
    )


def ends(records: Sequence[SampleRecord]) -> str:
    """Outcomes and stop reasons as counts; what could not be read is not hidden among the wrong answers."""
    figures, n = summarize(records), len(records)
    outcomes = [_count(figures, name, n) for name in sorted(figures) if name.startswith("outcome/")]
    stops = [
        _count(figures, name, n) for name in sorted(figures) if name.startswith("stop/") and name != "stop/answered"
    ]
    return escape(", ".join(outcomes)) + (f"<br><small>{escape(', '.join(stops))}</small>" if stops else "")


def _count(figures: dict[str, float], name: str, n: int) -> str:
    return f"{round(figures[name] * n)} {name.partition('/')[2].replace('_', ' ')}"


def _series(metrics: Metrics, name: str) -> list[XY]:
    return [(float(record["step"]), float(record[name])) for record in metrics if name in record]


def _sampled(metrics: Metrics, name: str) -> tuple[list[XY], list[XY]]:
    """Smoothed and raw."""
    raw = _series(metrics, name)
    return smoothed(raw, ROLLOUT_WINDOW), raw


def _greedy(
    report: Report, share: Callable[[Sequence[SampleRecord]], Proportion]
) -> list[tuple[float, float, float, float]]:
    measured = [(greedy.step, share(report.cells[greedy.cell])) for greedy in report.greedy]
    return [(float(step), s.value, s.low, s.high) for step, s in measured]


def _zoomed(records: Sequence[SampleRecord]) -> Proportion:
    return wilson(sum(record.zooms > 0 for record in records), len(records))


def _number(value: float, form: str, unit: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{form}}{unit}"


def table(head: Sequence[str], body: Sequence[str], style: str) -> str:
    """A table that scrolls on a narrow screen; `body` are rows of HTML, `style` its class."""
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows = f"<thead><tr>{header}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="wide"><table class="{style}">{rows}</table></div>'
