"""Figures with their uncertainty: Wilson and clustered intervals, several samples, paired comparisons, pointing.

Pure functions over `SampleRecord`s. Every accuracy comes with n and a 95 % interval; two policies that
answered the same questions are compared pair by pair, which is far sharper than comparing intervals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from vigorl_lib.domain.trajectory import StopReason
from vigorl_lib.reward.matching import normalize

Z_95 = 1.959963984540054
NOT_PARSEABLE = ("malformed", "no_answer")
"""Outcomes of samples whose answer cannot be read as what was asked for, or that have none."""
CUT_OFF = (StopReason.MAX_TOKENS.value, StopReason.CONTEXT_OVERFLOW.value)
"""Samples that ended so say more of the limits than of the policy: it had no room to answer."""


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """One question as one policy answered it in one mode.

    `point_error_px` is the distance of the last point to the middle of the evidence, in pixels of the
    model frame, and `hit` whether that point lies where its crop shows the evidence's middle (or, without
    a zoom, on the evidence); both are None where no evidence is known. `invalid` counts the turns that the
    environment could not act on, by kind (malformed, outside, repeated, over_budget).
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
    sample: int = 0
    """Number of this answer among those to the same question."""
    image: str = ""
    """Digest of the question's first image."""
    judged_by: str = ""
    """Name and version of the judge that read the answer, where one was asked."""


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


def wilson(successes: float, n: int, *, effective: float | None = None) -> Proportion:
    """Wilson score interval (Wilson 1927); for n = 0 the interval is everything.

    `effective` is how many independent samples the n are worth.
    """
    if n == 0:
        return Proportion(0.0, 0.0, 1.0, 0)
    share, m, z2 = successes / n, n if effective is None else effective, Z_95**2
    middle = (share + z2 / (2 * m)) / (1 + z2 / m)
    half = Z_95 / (1 + z2 / m) * math.sqrt(max(0.0, share * (1 - share)) / m + z2 / (4 * m * m))
    return Proportion(share, max(0.0, middle - half), min(1.0, middle + half), n)


def accuracy(records: Sequence[SampleRecord]) -> Proportion:
    """Share of right samples. Samples about the same image are one cluster and widen the interval."""
    return clustered([record.correct for record in records], list(map(_cluster, records)))


def clustered(verdicts: Sequence[float], clusters: Sequence[str]) -> Proportion:
    """Share of the verdicts that hold, of which those of one cluster may depend on each other.

    The interval is Wilson's with n divided by the design effect: the cluster-robust variance of the share over that
    of independent verdicts, at least 1 (Kish 1965). Where every cluster has one verdict it is Wilson's own. A verdict
    may be a chance between 0 and 1; chances spread less than verdicts, so the interval is then a careful one.
    """
    n, right = len(verdicts), sum(verdicts)
    if n == 0:
        return wilson(0.0, 0)
    share = right / n
    residuals: dict[str, list[float]] = {}
    for verdict, cluster in zip(verdicts, clusters, strict=True):
        residuals.setdefault(cluster, []).append(verdict - share)
    if len(residuals) in (1, n) or share in (0.0, 1.0):
        # Without any spread nothing is known of the correlation within a cluster: the careful guess is all of it.
        return wilson(right, n, effective=len(residuals))
    robust = sum(sum(group) ** 2 for group in residuals.values()) * len(residuals) / (len(residuals) - 1)
    design_effect = max(1.0, robust / (n * share * (1 - share)))
    return wilson(right, n, effective=n / design_effect)


def not_parseable(records: Sequence[SampleRecord]) -> Proportion:
    """Share of samples without an answer that can be read as one; they count as wrong and are told apart."""
    return clustered([record.outcome in NOT_PARSEABLE for record in records], list(map(_cluster, records)))


def cut_off(records: Sequence[SampleRecord]) -> Proportion:
    """Share of samples that a limit of tokens ended; what they had said until then is scored like any other answer."""
    return clustered([record.stop in CUT_OFF for record in records], list(map(_cluster, records)))


def by_question(records: Sequence[SampleRecord]) -> dict[str, list[SampleRecord]]:
    """All samples of each example by their number, in the order of the examples."""
    questions: dict[str, list[SampleRecord]] = {}
    for record in records:
        questions.setdefault(record.example_id, []).append(record)
    # Records come in the order in which they were finished.
    return {name: sorted(samples, key=lambda record: record.sample) for name, samples in questions.items()}


def pass_at_k(records: Sequence[SampleRecord], k: int) -> Proportion:
    """Chance that one of k samples is right, by the unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021).

    Raises ValueError where a question has fewer than k samples.
    """
    questions = list(by_question(records).values())
    if any(len(samples) < k for samples in questions):
        raise ValueError(f"pass@{k} needs {k} samples of each question, found {min(map(len, questions))}")
    chances = []
    for samples in questions:
        n, right = len(samples), sum(record.correct for record in samples)
        chances.append(1.0 - math.comb(n - right, k) / math.comb(n, k))
    return clustered(chances, [_cluster(samples[0]) for samples in questions])


def majority(records: Sequence[SampleRecord]) -> Proportion:
    """Share of questions whose most frequent answer is right; of equally frequent ones the earliest counts.

    Answers are the same if they differ in case, blanks, and punctuation and parentheses at their ends only, such as `B`
    and `(b)`; samples without an answer do not vote.
    """
    verdicts = []
    questions = list(by_question(records).values())
    for samples in questions:
        votes: dict[str, list[SampleRecord]] = {}
        for record in samples:
            if record.answer is not None:
                votes.setdefault(normalize(normalize(record.answer).strip("()")), []).append(record)
        verdicts.append(max(votes.values(), key=len)[0].correct if votes else False)
    return clustered(verdicts, [_cluster(samples[0]) for samples in questions])


def _cluster(record: SampleRecord) -> str:
    return record.image or record.example_id


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
    """Accuracy of `first` minus that of `second` over the examples that both answered.

    Several samples of an example count as their mean, and examples about one image are drawn together for the
    interval. `p_value` is that of the exact sign test over the examples on which the two differ, which for one sample
    each is McNemar's; it takes examples for independent.
    """
    of_first, of_second = _shares_by_question(first), _shares_by_question(second)
    images = {record.example_id: _cluster(record) for record in first}
    shared = [name for name in of_first if name in of_second]
    differences = [of_first[name] - of_second[name] for name in shared]
    n = len(differences)
    if n == 0:
        return Paired(0.0, -1.0, 1.0, 0, 0, 0, 1.0)
    only_first, only_second = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    low, high = bootstrap_mean(differences, [images[name] for name in shared], samples=samples, seed=seed)
    return Paired(fmean(differences), low, high, n, only_first, only_second, mcnemar(only_first, only_second))


def _shares_by_question(records: Sequence[SampleRecord]) -> dict[str, float]:
    return {name: fmean(record.correct for record in samples) for name, samples in by_question(records).items()}


def bootstrap_mean(
    values: Sequence[float], clusters: Sequence[str] | None = None, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean, over values drawn with replacement (Efron 1979); not of nothing.

    Values of one cluster are drawn together. Drawing n clusters is one multinomial draw over their distinct sums and
    sizes.
    """
    import numpy as np

    groups: dict[str | int, list[float]] = {}
    for number, value in enumerate(values):
        groups.setdefault(number if clusters is None else clusters[number], []).append(value)
    drawn_from = np.array([(sum(group), len(group)) for group in groups.values()])
    distinct, counts = np.unique(drawn_from, axis=0, return_counts=True)
    n = len(groups)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=samples) @ distinct
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return float(low), float(high)


def summarize(records: Sequence[SampleRecord]) -> dict[str, float]:
    """Shares and means of one cell, by metric name; NaN where nothing was pointed at."""
    errors = [r.point_error_px for r in records if r.point_error_px is not None]
    hits = [r.hit for r in records if r.hit is not None]
    return {
        "n": len(records),
        "accuracy": accuracy(records).value,
        "not_parseable": not_parseable(records).value,
        "cut_off": cut_off(records).value,
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
        **{name: share.value for name, share in of_several(records).items()},
    }


def of_several(records: Sequence[SampleRecord]) -> dict[str, Proportion]:
    """pass@k for powers of two and the majority's share, which exist for several samples a question only."""
    fewest = min((len(samples) for samples in by_question(records).values()), default=0)
    if fewest < 2:
        return {}
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= fewest]
    return {f"pass@{k}": pass_at_k(records, k) for k in ks} | {"majority": majority(records)}


def split_by(records: Sequence[SampleRecord], tag: str) -> dict[str, list[SampleRecord]]:
    """Records by the value of a tag, sorted by it."""
    values = sorted({record.tags[tag] for record in records if tag in record.tags})
    return {value: [record for record in records if record.tags.get(tag) == value] for value in values}


def split_by_tags(records: Sequence[SampleRecord]) -> dict[str, dict[str, list[SampleRecord]]]:
    """Records by tag and value, of the tags that tell groups of questions apart."""
    parts = {name: split_by(records, name) for name in sorted({tag for record in records for tag in record.tags})}
    # A tag with another value for each question is a name and not a group.
    questions = len(by_question(records))
    return {name: part for name, part in parts.items() if 1 < len(part) < questions}


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
