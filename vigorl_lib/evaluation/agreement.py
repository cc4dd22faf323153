"""How far people agree who mark the same things: Cohen's and Fleiss' kappa, Krippendorff's alpha.

Pure functions over marks: a row for each thing, in it what each person said of it. 1 is full agreement, 0 what chance
would give, below 0 less than chance. A statistic that is not defined for the marks is NaN: nothing was marked twice, or
everybody said one and the same value, so that chance agrees, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

Marks = Sequence[Mapping[str, float]]
"""Of each thing, the value by the name of the person; nominal values are numbers, too."""


def cohen_kappa(first: Sequence[float], second: Sequence[float]) -> float:
    """Of two people who both marked the same things (Cohen 1960)."""
    n = len(first)
    if n == 0:
        return math.nan
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    of_first, of_second = Counter(first), Counter(second)
    expected = sum(of_first[value] * of_second[value] for value in of_first) / n**2
    return _above_chance(observed, expected)


def fleiss_kappa(marks: Marks) -> float:
    """Of things that were all marked by the same number of people, not always the same ones (Fleiss 1971).

    Raises ValueError where the numbers differ; Krippendorff's alpha has no such condition.
    """
    sizes = {len(row) for row in marks}
    if len(sizes) > 1:
        raise ValueError(f"expected as many marks of every thing, found {min(sizes)} to {max(sizes)}")
    if not sizes or (raters := sizes.pop()) < 2:
        return math.nan
    counts = [Counter(row.values()) for row in marks]
    pairs = raters * (raters - 1)
    observed = sum(sum(n * (n - 1) for n in count.values()) for count in counts) / (len(counts) * pairs)
    shares = Counter(chain.from_iterable(row.values() for row in marks))
    expected = sum((n / shares.total()) ** 2 for n in shares.values())
    return _above_chance(observed, expected)


def krippendorff_alpha(marks: Marks, *, ordinal: bool = False) -> float:
    """Of any number of people, of whom not all marked everything (Krippendorff 2004, §11.3).

    Nominal values agree or do not; with `ordinal` a disagreement weighs by how many marks lie between its ends.
    """
    rows = [list(row.values()) for row in marks if len(row) > 1]
    totals = Counter(chain.from_iterable(rows))
    n = totals.total()
    if n == 0:
        return math.nan
    distance = _ordinal(totals) if ordinal else _nominal
    observed = sum(_disagreement(row, distance) / (len(row) - 1) for row in rows)
    expected = sum(totals[a] * totals[b] * distance(a, b) for a in totals for b in totals) / (n - 1)
    return math.nan if expected == 0 else 1 - observed / expected


def pairwise_kappa(marks: Marks) -> dict[tuple[str, str], tuple[float, int]]:
    """Cohen's kappa of every two people, with how many things both marked."""
    people = sorted({person for row in marks for person in row})
    found = {}
    for number, first in enumerate(people):
        for second in people[number + 1 :]:
            both = [row for row in marks if first in row and second in row]
            kappa = cohen_kappa([row[first] for row in both], [row[second] for row in both])
            found[first, second] = (kappa, len(both))
    return found


def _above_chance(observed: float, expected: float) -> float:
    # Where chance agrees fully there is nothing above it to measure.
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)


def _disagreement(values: Sequence[float], distance: Callable[[float, float], float]) -> float:
    return sum(distance(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j)


def _nominal(first: float, second: float) -> float:
    return float(first != second)


def _ordinal(totals: Mapping[float, int]) -> Callable[[float, float], float]:
    ranked = sorted(totals)

    def distance(first: float, second: float) -> float:
        low, high = sorted((first, second))
        between = sum(totals[value] for value in ranked if low <= value <= high)
        return (between - (totals[low] + totals[high]) / 2) ** 2

    return distance
