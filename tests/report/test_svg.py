"""Charts: axes with round numbers, curves where the data is."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.report.svg import Dots, Line, decades, interval_bar, line_chart, smoothed, ticks

CURVE = Line("loss", [(0, 4.0), (5, 2.0), (10, 1.0)], "c2", raw=[(0, 5.0), (10, 0.5)])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_evenly_spaced_and_within_their_range(low: float, width: float) -> None:
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 7
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))
    slack = 1e-6 * width + 1e-9 * abs(low)
    assert low - slack <= found[0] <= found[-1] <= low + width + slack


@given(st.floats(1e-6, 1e3), st.floats(1, 1e6))
def test_decades_enclose_their_range(low: float, ratio: float) -> None:
    found = decades(low, low * ratio)
    assert found == sorted(found)
    assert found[0] <= low * (1 + 1e-6)
    assert found[-1] >= low * ratio * (1 - 1e-6)
    assert {f"{value:e}"[0] for value in found} <= {"1", "2", "5"}


def test_smoothing_is_a_trailing_mean_that_keeps_every_step() -> None:
    assert smoothed([(1, 2.0), (2, 4.0), (3, 9.0)], 2) == [(1, 2.0), (2, 3.0), (3, 6.5)]


def test_a_chart_is_well_formed_and_named() -> None:
    chart = ElementTree.fromstring(line_chart("a < b", "step", [CURVE, Dots("greedy", [(10, 0.9, 0.8, 1.0)])]))
    assert chart.findtext("figcaption") == "a < b"
    svg = chart.find("svg")
    assert svg is not None
    assert svg.get("aria-label") == "a < b"
    assert [span.text for span in chart.iter("span")] == ["loss", "greedy"]
    assert len(svg.findall("path")) == 2
    assert len(svg.findall("circle")) == 1


def test_a_falling_curve_falls_on_the_page() -> None:
    for logarithmic in (False, True):
        path = re.search(r'class="line c2" d="([^"]+)"', line_chart("t", "x", [CURVE], logarithmic=logarithmic))
        assert path is not None
        heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path[1])]
        assert heights == sorted(heights)
        # Each step halves the value, so on a logarithmic axis all steps are equal.
        falls = [b - a for a, b in itertools.pairwise(heights)]
        assert math.isclose(*falls, abs_tol=0.2) is logarithmic


def test_a_chart_without_data_is_left_out() -> None:
    assert line_chart("t", "x", [Line("nothing", [])]) == ""
    assert line_chart("t", "x", []) == ""


def test_a_flat_curve_at_nought_has_a_chart() -> None:
    assert "<path" in line_chart("t", "x", [Line("flat", [(1, 0.0), (2, 0.0)])])


def test_an_interval_bar_shows_nought_only_inside_its_span() -> None:
    assert 'class="zero"' in interval_bar(0.1, -0.1, 0.3, (-0.2, 0.4))
    bar = ElementTree.fromstring(interval_bar(0.5, 0.25, 0.75))
    rectangle = bar.find("rect")
    assert rectangle is not None
    assert (rectangle.get("x"), rectangle.get("width")) == ("25.0", "50.0")
    assert not [line for line in bar.iter("line") if line.get("class") == "zero"]
