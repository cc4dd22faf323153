"""Line charts as inline SVG; colours come from the page's style, so they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 520, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 40

XY = tuple[float, float]
Place = Callable[[float, float], XY]
"""From data to pixels of the chart."""


@dataclass(frozen=True, slots=True)
class Line:
    """A curve; `style` is a colour class of the page (c1 … c4), `raw` the values behind a smoothed curve."""

    name: str
    points: Sequence[XY]
    style: str = "c1"
    raw: Sequence[XY] = ()


@dataclass(frozen=True, slots=True)
class Dots:
    """Single measurements as (x, y, low, high), drawn with their intervals."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    style: str = "c1"


def line_chart(
    title: str,
    x_label: str,
    series: Sequence[Line | Dots],
    *,
    percent: bool = False,
    logarithmic: bool = False,
    note: str = "",
) -> str:
    """One chart with axes and a legend; empty without any point.

    With `percent` the y axis runs from 0 to 1; a logarithmic one wants values above 0.
    """
    xs = [x for s in series for x, *_ in s.points]
    if not xs:
        return ""
    x_max = max(*xs, 1.0)
    ys = [y for s in series for y in _heights(s)]
    y_ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if percent else decades(min(ys), max(ys)) if logarithmic else []
    y_ticks = y_ticks or ticks(min(0.0, *ys), max(*ys, 1e-9) * 1.05)
    y_min, y_max = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    scale = math.log if logarithmic else float

    def at(x: float, y: float) -> XY:
        px = LEFT + x / x_max * (WIDTH - LEFT - RIGHT)
        py = HEIGHT - BOTTOM - (scale(y) - scale(y_min)) / (scale(y_max) - scale(y_min)) * (HEIGHT - TOP - BOTTOM)
        return round(px, 1), round(py, 1)

    body = _y_axis(y_ticks, at, x_max, percent) + _x_axis(x_max, x_label, at, y_min)
    body += "".join(_line(s, at) if isinstance(s, Line) else _dots(s, at) for s in series)
    legend = "".join(
        f'<span class="key {s.style}{" round" if isinstance(s, Dots) else ""}">{escape(s.name)}</span>' for s in series
    )
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption><div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{body}</svg>'
        f"{f'<p>{escape(note)}</p>' if note else ''}</figure>"
    )


def smoothed(points: Sequence[XY], window: int) -> list[XY]:
    """Mean over the last `window` points."""
    values = [y for _, y in points]
    return [(x, sum(values[max(0, k + 1 - window) : k + 1]) / min(window, k + 1)) for k, (x, _) in enumerate(points)]


def interval_bar(value: float, low: float, high: float, span: XY = (0.0, 1.0)) -> str:
    """A value with its interval on a common axis, as wide as its cell; a line stands at 0 where `span` crosses it."""

    def x(position: float) -> float:
        return round(100 * (position - span[0]) / (span[1] - span[0]), 2)

    zero = f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="10"/>' if span[0] < 0 < span[1] else ""
    return (
        '<svg class="range" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="track" x1="0" x2="100" y1="5" y2="5"/>{zero}'
        f'<rect class="interval" x="{x(low)}" width="{max(0.6, round(x(high) - x(low), 2))}" y="2.5" height="5"/>'
        f'<line class="middle" x1="{x(value)}" x2="{x(value)}" y1="0.5" y2="9.5"/></svg>'
    )


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from `low` to `high`, 0 among them if it lies between."""
    rough = (high - low) / 4
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 10) for k in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from the last at or below `low` to the first at or above `high`; both above 0."""
    values = [
        m * 10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    first = max(k for k, value in enumerate(values) if value <= low * (1 + 1e-9))
    last = min(k for k, value in enumerate(values) if value >= high * (1 - 1e-9))
    return [float(f"{value:g}") for value in values[first : last + 1]]


def _heights(series: Line | Dots) -> Iterator[float]:
    if isinstance(series, Dots):
        yield from (value for _, *values in series.points for value in values)
    else:
        yield from (y for _, y in (*series.points, *series.raw))


def _line(line: Line, at: Place) -> str:
    raw = f'<path class="line raw {line.style}" d="{_path(line.raw, at)}"/>' if line.raw else ""
    return f'{raw}<path class="line {line.style}" d="{_path(line.points, at)}"/>'


def _path(points: Sequence[XY], at: Place) -> str:
    return " ".join(f"{'L' if k else 'M'}{px:g} {py:g}" for k, (px, py) in enumerate(at(*point) for point in points))


def _dots(dots: Dots, at: Place) -> str:
    parts = []
    for x, y, low, high in dots.points:
        (px, py), (_, top), (_, bottom) = at(x, y), at(x, high), at(x, low)
        parts.append(f'<line class="whisker {dots.style}" x1="{px:g}" x2="{px:g}" y1="{top:g}" y2="{bottom:g}"/>')
        parts.append(f'<circle class="dot {dots.style}" cx="{px:g}" cy="{py:g}" r="5"/>')
    return "".join(parts)


def _y_axis(ticks: Sequence[float], at: Place, x_max: float, percent: bool) -> str:
    parts = []
    for tick in ticks:
        (x0, y), (x1, _) = at(0, tick), at(x_max, tick)
        label = f"{tick:.0%}" if percent else f"{tick:g}"
        parts.append(f'<line class="{"grid" if tick else "axis"}" x1="{x0:g}" x2="{x1:g}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>')
    return "".join(parts)


def _x_axis(x_max: float, label: str, at: Place, y: float) -> str:
    parts = [
        f'<text x="{at(tick, y)[0]:g}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>'
        for tick in ticks(0, x_max)
    ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join(parts) + f'<text x="{middle:g}" y="{HEIGHT - 5}" text-anchor="middle">{escape(label)}</text>'
