"""Agreement statistics against the examples of their authors."""

from __future__ import annotations

import math

import pytest

from vigorl_lib.evaluation.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha, pairwise_kappa

OBSERVERS = {
    "a": "1 2 3 3 2 1 4 1 2 . . .",
    "b": "1 2 3 3 2 2 4 1 2 5 . 3",
    "c": ". 3 3 3 2 3 4 2 2 5 1 .",
    "d": "1 2 3 3 2 4 4 1 2 5 1 .",
}
"""Twelve units and four observers, of Krippendorff's "Computing Krippendorff's Alpha-Reliability" (2011)."""
RATINGS = """0 0 0 0 14
0 2 6 4 2
0 0 3 5 6
0 3 9 2 0
2 2 8 1 1
7 7 0 0 0
3 2 6 3 0
2 5 3 2 2
6 5 2 1 0
0 2 2 3 7"""
"""Fourteen raters, ten subjects, five categories: how many raters chose each."""


def units() -> list[dict[str, float]]:
    columns = zip(*(row.split() for row in OBSERVERS.values()), strict=True)
    return [
        {name: float(value) for name, value in zip(OBSERVERS, column, strict=True) if value != "."}
        for column in columns
    ]


def test_alpha_of_incomplete_marks_is_krippendorffs_own() -> None:
    assert krippendorff_alpha(units()) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units(), ordinal=True) == pytest.approx(0.815, abs=5e-4)


def test_fleiss_of_the_textbook_example() -> None:
    rows = []
    for line in RATINGS.splitlines():
        values = [float(k) for k, count in enumerate(map(int, line.split())) for _ in range(count)]
        rows.append({f"rater {k}": value for k, value in enumerate(values)})
    assert fleiss_kappa(rows) == pytest.approx(0.210, abs=5e-4)


def test_fleiss_wants_as_many_marks_of_every_thing() -> None:
    with pytest.raises(ValueError, match="found 1 to 2"):
        fleiss_kappa([{"a": 1.0, "b": 1.0}, {"a": 0.0}])


def test_cohen_of_the_textbook_example() -> None:
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert cohen_kappa([a for a, _ in pairs], [b for _, b in pairs]) == pytest.approx(0.4)


def test_two_people_are_compared_over_what_both_marked() -> None:
    marks = [{"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0}, {"b": 0.0, "c": 0.0}]
    found = pairwise_kappa(marks)
    assert found["a", "b"] == (1.0, 2)
    assert found["b", "c"][1] == 1
    assert math.isnan(found["a", "c"][0])


def test_where_all_say_the_same_chance_agrees_and_nothing_can_be_said() -> None:
    same = [{"a": 1.0, "b": 1.0}] * 5
    assert all(math.isnan(value) for value in (krippendorff_alpha(same), fleiss_kappa(same), cohen_kappa([1], [1])))
    assert math.isnan(krippendorff_alpha([{"a": 1.0}]))


def test_opposites_agree_less_than_chance() -> None:
    opposed = [{"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}] * 5
    assert fleiss_kappa(opposed) == -1.0
    assert krippendorff_alpha(opposed) < -0.8
