"""Figures with their uncertainty: Wilson intervals, paired comparisons, pointing.

Pure functions over `SampleRecord`s. Every accuracy comes with n and a 95 % interval; two policies that
answered the same questions are compared pair by pair, which is far sharper than comparing intervals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

Z_95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One question as one policy answered it in one mode.

    `point_error_px` is the distance of the last point to the middle of the evidence, in pixels of the
    model frame, and `hit` whether that point lies where its crop shows the evidence's middle (or, without
    a zoom, on the evidence); both are None where no evidence is known. `invalid` counts the turns that the
    environment could not act on, by kind (malformed, outside, repeated).
    """

    example_id: str
    correct: bool
    outcome: str
    stop: str
    answer: str | None
    turns: int
    zooms: int
    reward: float
    invalid: Mapping[str, int] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    point_error_px: float | None = None
    hit: bool | None = None


@dataclass(frozen=True, slots=True)
class Proportion:
    """A share with n and its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Paired:
    """Difference of two accuracies over the same examples, with a 95 % bootstrap interval and McNemar's exact p."""

    difference: float
    low: float
    high: float
    n: int
    only_first: int
    only_second: int
    p_value: float


def wilson(successes: int, n: int) -> Proportion:
    """Wilson score interval (Wilson 1927); for n = 0 the interval is everything."""
    if n == 0:
        return Proportion(0.0, 0.0, 1.0, 0)
    share, z2 = successes / n, Z_95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Proportion(share, max(0.0, middle - half), min(1.0, middle + half), n)


def accuracy(records: Sequence[SampleRecord]) -> Proportion:
    return wilson(sum(record.correct for record in records), len(records))


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p value that the discordant pairs fall on both sides alike (McNemar 1947)."""
    n = only_first + only_second
    if n == 0:
        return 1.0
    tail: float = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1)) / 2**n
    return min(1.0, 2 * tail)


def compare(
    first: Sequence[SampleRecord], second: Sequence[SampleRecord], *, samples: int = 2000, seed: int = 0
) -> Paired:
    """Accuracy of `first` minus that of `second` over the examples that both answered."""
    of_second = {record.example_id: record.correct for record in second}
    pairs = [(r.correct, of_second[r.example_id]) for r in first if r.example_id in of_second]
    counts = Counter(pairs)
    only_first, only_second, n = counts[True, False], counts[False, True], len(pairs)
    if n == 0:
        return Paired(0.0, -1.0, 1.0, 0, 0, 0, 1.0)
    low, high = _bootstrap(only_first, only_second, n, samples, seed)
    return Paired(
        (only_first - only_second) / n, low, high, n, only_first, only_second, mcnemar(only_first, only_second)
    )


def _bootstrap(only_first: int, only_second: int, n: int, samples: int, seed: int) -> tuple[float, float]:
    """95 % percentile interval of the mean difference (Efron 1979).

    A pair's difference is 1, -1 or 0, so drawing n pairs with replacement is one multinomial draw.
    """
    import numpy as np

    shares = np.array([only_first, only_second, n - only_first - only_second]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=samples)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, (0.025, 0.975))
    return float(low), float(high)


def summarize(records: Sequence[SampleRecord]) -> dict[str, float]:
    """Shares and means of one cell, by metric name; NaN where nothing was pointed at."""
    errors = [r.point_error_px for r in records if r.point_error_px is not None]
    hits = [r.hit for r in records if r.hit is not None]
    return {
        "n": len(records),
        "accuracy": accuracy(records).value,
        "zoom_rate": _mean(records, lambda r: r.zooms > 0),
        "turns": _mean(records, lambda r: r.turns),
        "reward": _mean(records, lambda r: r.reward),
        "invalid_turns": _mean(records, lambda r: sum(r.invalid.values())),
        "point_error_median_px": median(errors) if errors else math.nan,
        "point_error_mean_px": fmean(errors) if errors else math.nan,
        "hit_rate": fmean(hits) if hits else math.nan,
        "pointed": len(errors) / len(records) if records else 0.0,
        **_invalid_by_kind(records),
        **_shares("stop", [record.stop for record in records]),
        **_shares("outcome", [record.outcome for record in records]),
    }


def split_by(records: Sequence[SampleRecord], tag: str) -> dict[str, list[SampleRecord]]:
    """Records by the value of a tag, sorted by it."""
    values = sorted({record.tags[tag] for record in records if tag in record.tags})
    return {value: [record for record in records if record.tags.get(tag) == value] for value in values}


def _invalid_by_kind(records: Sequence[SampleRecord]) -> dict[str, float]:
    """Invalid turns a sample, each kind apart."""
    counts: Counter[str] = Counter()
    for record in records:
        counts.update(record.invalid)
    return {f"invalid/{kind}": count / len(records) for kind, count in sorted(counts.items())}


def _mean(records: Sequence[SampleRecord], of: Callable[[SampleRecord], float]) -> float:
    return fmean(float(of(record)) for record in records) if records else 0.0


def _shares(name: str, values: Sequence[str]) -> dict[str, float]:
    return {f"{name}/{value}": count / len(values) for value, count in sorted(Counter(values).items())}
