"""Line charts as inline SVG; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 34

Place = Callable[[float, float], tuple[float, float]]
"""From data to pixels of the chart."""


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or single points with intervals; `style` is a colour class of the page (c1 … c4)."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "c1"
    intervals: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) of points drawn with whiskers."""


def line_chart(title: str, x_label: str, series: Sequence[Series], *, percent: bool = False) -> str:
    """One chart with axes and a legend; empty without any point."""
    xs = [x for s in series for x, _ in s.points] + [x for s in series for x, _, _ in s.intervals]
    ys = [y for s in series for _, y in s.points] + [v for s in series for _, *lh in s.intervals for v in lh]
    if not xs:
        return ""
    x_max = max(max(xs), 1)
    # A loss begins many times higher than it ever is again: cut the first few per cent off at the top.
    y_low, y_high = (0.0, 1.0) if percent else (0.0, sorted(ys)[int(0.96 * (len(ys) - 1))] * 1.1 or 1.0)

    def at(x: float, y: float) -> tuple[float, float]:
        px = LEFT + x / x_max * (WIDTH - LEFT - RIGHT)
        y = min(y, y_high)
        py = HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return round(px, 1), round(py, 1)

    body = [_grid(y_low, y_high, at, x_max, percent), _x_axis(x_max, at, x_label)]
    for line in series:
        path = " ".join(f"{'M' if k == 0 else 'L'}{px} {py}" for k, (px, py) in enumerate(at(*p) for p in line.points))
        if not line.intervals:
            body.append(f'<path class="line {line.style}" d="{path}"/>')
        for x, low, high in line.intervals:
            (px, top), (_, bottom) = at(x, high), at(x, low)
            body.append(f'<line class="whisker {line.style}" x1="{px}" x2="{px}" y1="{top}" y2="{bottom}"/>')
        for x, y in line.points if line.intervals else ():
            px, py = at(x, y)
            body.append(f'<circle class="dot {line.style}" cx="{px}" cy="{py}" r="4.5"/>')
    legend = "".join(f'<span class="key {s.style}">{escape(s.name)}</span>' for s in series)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(body)}</svg>'
        f'<div class="legend">{legend}</div></figure>'
    )


def _grid(low: float, high: float, at: Place, x_max: float, percent: bool) -> str:
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else _ticks(low, high)
    parts = []
    for tick in ticks:
        (x0, y), (x1, _) = at(0, tick), at(x_max, tick)
        label = f"{tick:.0%}" if percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5}" text-anchor="end">{label}</text>')
    return "".join(parts)


def _x_axis(x_max: float, at: Place, label: str) -> str:
    parts = [
        f'<text x="{at(tick, 0)[0]}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        for tick in _ticks(0, x_max)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join(parts) + f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(label)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`."""
    rough = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough)
    return [low + k * step for k in range(int((high - low) / step + 1e-9) + 1)]


def smoothed(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """Mean over the last `window` points."""
    values = [y for _, y in points]
    return [(x, sum(values[max(0, k + 1 - window) : k + 1]) / min(window, k + 1)) for k, (x, _) in enumerate(points)]
