"""Figures and their intervals, against values worked out elsewhere."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.evaluation.metrics import (
    SampleRecord,
    accuracy,
    clustered,
    compare,
    cut_off,
    majority,
    mcnemar,
    not_parseable,
    pass_at_k,
    split_by,
    summarize,
    wilson,
)

RECORD = SampleRecord("a", True, "correct", "answered", "pink", turns=2, zooms=1, reward=1.0)


def records(answers: str, size: str = "small") -> list[SampleRecord]:
    """One record per letter: `r` is right."""
    return [
        replace(RECORD, example_id=f"{size}-{k}", correct=letter == "r", tags={"size": size})
        for k, letter in enumerate(answers)
    ]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_gives_the_textbook_intervals(successes: int, n: int, low: float, high: float) -> None:
    share = wilson(successes, n)
    assert (share.value, share.n) == (successes / n, n)
    assert share.low == pytest.approx(low, abs=5e-5)
    assert share.high == pytest.approx(high, abs=5e-5)


def test_no_sample_says_nothing() -> None:
    share = wilson(0, 0)
    assert (share.low, share.high, share.n) == (0.0, 1.0, 0)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    successes, n = counts
    share, mirrored = wilson(successes, n), wilson(n - successes, n)
    assert 0.0 <= share.low <= share.value + 1e-12
    assert share.value - 1e-12 <= share.high <= 1.0
    assert share.low == pytest.approx(1.0 - mirrored.high)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [(1, 8, 20 / 512), (1, 9, 22 / 1024), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0), (10, 0, 2 / 1024)],
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p)
    assert mcnemar(only_second, only_first) == pytest.approx(p)


def test_mcnemar_of_many_pairs_neither_overflows_nor_vanishes() -> None:
    assert 0 < mcnemar(1000, 1200) < 0.001


def test_compare_of_nothing_and_of_equals() -> None:
    nothing = compare(records("r", "small"), records("r", "large"))
    assert (nothing.n, nothing.low, nothing.high, nothing.p_value) == (0, -1.0, 1.0, 1.0)
    equal = compare(records("rrww"), records("rrww"))
    assert (equal.difference, equal.low, equal.high, equal.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_compare_pairs_by_example_and_leaves_out_what_only_one_answered() -> None:
    first, second = records("rrrw"), records("wrwr")
    paired = compare(first, second[::-1][:3])
    assert (paired.n, paired.only_first, paired.only_second) == (3, 1, 1)
    assert paired.difference == 0.0


def test_compare_has_the_interval_of_the_paired_differences() -> None:
    """With 60 against 20 discordant pairs of 400 the normal approximation is good to a fraction of a point."""
    first, second = records("r" * 60 + "w" * 20 + "r" * 320), records("w" * 60 + "r" * 20 + "r" * 320)
    paired = compare(first, second, samples=20_000)
    error = math.sqrt((80 / 400 - 0.1**2) / 400)
    assert paired.difference == pytest.approx(0.1)
    assert paired.low == pytest.approx(0.1 - 1.96 * error, abs=0.004)
    assert paired.high == pytest.approx(0.1 + 1.96 * error, abs=0.004)
    assert paired == compare(first, second, samples=20_000)


@given(st.text("rw", min_size=1, max_size=60), st.text("rw", min_size=1, max_size=60))
def test_turning_a_comparison_round_turns_its_sign(first: str, second: str) -> None:
    there, back = (compare(records(a), records(b), samples=200) for a, b in ((first, second), (second, first)))
    assert there.difference == -back.difference
    assert (there.only_first, there.p_value) == (back.only_second, back.p_value)
    assert -1.0 <= there.low <= there.difference + 1e-9
    assert there.difference - 1e-9 <= there.high <= 1.0


def test_summary_counts_malformed_and_unanswered_apart_from_wrong() -> None:
    cell = [
        RECORD,
        replace(RECORD, correct=False, outcome="wrong", zooms=0, turns=1),
        replace(RECORD, correct=False, outcome="malformed"),
        replace(
            RECORD, correct=False, outcome="no_answer", stop="invalid_turns", invalid={"malformed": 2, "outside": 1}
        ),
    ]
    figures = summarize(cell)
    assert [figures[f"outcome/{name}"] for name in ("correct", "wrong", "malformed", "no_answer")] == [0.25] * 4
    assert (figures["stop/answered"], figures["stop/invalid_turns"]) == (0.75, 0.25)
    assert (figures["invalid_turns"], figures["invalid/malformed"], figures["invalid/outside"]) == (0.75, 0.5, 0.25)
    assert (figures["zoom_rate"], figures["turns"]) == (0.75, 1.75)


def test_samples_that_had_no_room_to_answer_are_counted() -> None:
    ended = [replace(RECORD, stop=stop) for stop in ("answered", "max_tokens", "context_overflow", "max_turns")]
    assert (cut_off(ended).value, cut_off(ended).n) == (0.5, 4)
    assert summarize(ended)["cut_off"] == 0.5


def test_pointing_is_averaged_over_those_who_pointed() -> None:
    cell = [replace(RECORD, point_error_px=error, hit=hit) for error, hit in ((1.0, True), (5.0, True), (None, False))]
    figures = summarize(cell)
    assert figures["point_error_median_px"] == figures["point_error_mean_px"] == 3.0
    assert figures["hit_rate"] == pytest.approx(2 / 3)
    assert figures["pointed"] == pytest.approx(2 / 3)
    assert math.isnan(summarize([RECORD])["point_error_median_px"])


def test_split_keeps_every_tagged_record_once() -> None:
    cell = [*records("rw", "small"), *records("rrr", "large"), RECORD]
    parts = split_by(cell, "size")
    assert {name: len(part) for name, part in parts.items()} == {"large": 3, "small": 2}
    assert accuracy(parts["small"]).value == 0.5


def answered(example: str, correct: bool, answer: str = "", *, sample: int = 0, image: str = "") -> SampleRecord:
    return SampleRecord(example, correct, "correct" if correct else "wrong", "answered", answer, 1, 0, 0.0,
                        sample=sample, image=image)  # fmt: skip


def test_questions_about_one_image_widen_the_interval_by_what_they_share() -> None:
    alone = [answered(f"q{k}", k % 2 == 0, image=f"i{k}") for k in range(80)]
    assert accuracy(alone) == wilson(40, 80)
    # Ten questions of one image that are all right or all wrong say no more than one of them.
    twins = [answered(f"q{k}", (k // 10) % 2 == 0, image=f"i{k // 10}") for k in range(80)]
    few = accuracy(twins)
    assert (few.value, few.n) == (0.5, 80)
    assert few.high - few.low == pytest.approx(wilson(4, 8).high - wilson(4, 8).low, rel=0.1)
    # Images whose questions are answered independently are worth nearly as much as questions alone.
    rng = random.Random(0)
    mixed = [answered(f"q{k}", rng.random() < 0.5, image=f"i{k // 4}") for k in range(400)]
    assert accuracy(mixed).high - accuracy(mixed).low < 1.2 * (wilson(200, 400).high - wilson(200, 400).low)


def test_questions_about_one_image_widen_the_interval_of_a_difference_too() -> None:
    def run_of(right: str, per_image: int) -> list[SampleRecord]:
        return [answered(f"q{k}", letter == "r", image=f"i{k // per_image}") for k, letter in enumerate(right)]

    better, worse = "r" * 40 + "w" * 40, "w" * 40 + "w" * 40
    alone = compare(run_of(better, 1), run_of(worse, 1))
    shared = compare(run_of(better, 10), run_of(worse, 10))
    assert alone.difference == shared.difference == 0.5
    assert shared.high - shared.low > 2.5 * (alone.high - alone.low)
    assert shared.p_value == alone.p_value


def test_clustered_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Questions about an image share how hard it is; the true share is one half."""
    rng = random.Random(0)
    clusters = [str(k // 8) for k in range(320)]
    held = naive = 0
    for _ in range(400):
        ease = [rng.betavariate(0.5, 0.5) for _ in range(40)]
        verdicts = [rng.random() < ease[int(cluster)] for cluster in clusters]
        share, alone = clustered(verdicts, clusters), wilson(sum(verdicts), 320)
        held += share.low <= 0.5 <= share.high
        naive += alone.low <= 0.5 <= alone.high
    assert 0.92 <= held / 400 <= 0.98
    assert naive / 400 < 0.75, "independent samples would promise far too much"


def test_clusters_of_any_size_have_the_interval_of_drawing_images() -> None:
    rng = random.Random(1)
    images = [[rng.random() < ease for _ in range(rng.randint(1, 12))] for ease in (rng.random() for _ in range(120))]
    names = [str(k) for k, image in enumerate(images) for _ in image]
    share = clustered([verdict for image in images for verdict in image], names)
    means = []
    for _ in range(2000):
        drawn = [verdict for image in rng.choices(images, k=len(images)) for verdict in image]
        means.append(fmean(drawn))
    means.sort()
    assert share.low == pytest.approx(means[50], abs=0.01)
    assert share.high == pytest.approx(means[1950], abs=0.01)


def test_votes_and_chances_about_one_image_are_no_independent_ones() -> None:
    def run_of(per_image: int) -> list[SampleRecord]:
        return [answered(f"q{k}", k < 40, image=f"i{k // per_image}", sample=n) for k in range(80) for n in range(2)]

    for share in (majority, not_parseable, lambda records: pass_at_k(records, 2)):
        apart, together = (
            share([replace(r, outcome="correct" if r.correct else "malformed") for r in run])
            for run in (run_of(1), run_of(10))
        )
        assert (apart.value, apart.n) == (together.value, together.n)
        assert together.high - together.low > 2 * (apart.high - apart.low)


def test_where_all_are_right_a_cluster_counts_once() -> None:
    assert accuracy([answered(f"q{k}", True, image="i") for k in range(50)]) == wilson(50, 50, effective=1)


def test_pass_at_k_is_the_unbiased_estimator() -> None:
    records = [answered("a", k < 2, sample=k) for k in range(4)] + [answered("b", False, sample=k) for k in range(4)]
    assert pass_at_k(records, 1).value == pytest.approx(0.25)
    # Of the 6 pairs of a's samples, one holds no right one.
    assert pass_at_k(records, 2).value == pytest.approx(5 / 6 / 2)
    assert pass_at_k(records, 4).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="pass@8 needs 8 samples"):
        pass_at_k(records, 8)


@pytest.mark.parametrize(("n", "right"), [(n, right) for n in (1, 3, 6) for right in range(n + 1)])
def test_pass_at_k_is_the_share_of_all_choices_of_k_with_a_right_one(n: int, right: int) -> None:
    run = [answered("a", k < right, sample=k) for k in range(n)]
    for k in range(1, n + 1):
        choices = list(combinations(run, k))
        share = sum(any(record.correct for record in choice) for choice in choices) / len(choices)
        assert pass_at_k(run, k).value == pytest.approx(share)


def test_the_most_frequent_answer_is_the_vote_and_silence_does_not_vote() -> None:
    def votes(*said: tuple[str | None, bool]) -> list[SampleRecord]:
        return [replace(answered("a", right, sample=k), answer=text) for k, (text, right) in enumerate(said)]

    assert majority(votes(("pink", True), ("Cyan", False), (" PINK", True))).value == 1.0
    assert majority(votes(("cyan", False), ("pink", True))).value == 0.0, "of equally frequent ones the first"
    assert majority(votes(("cyan", False), ("pink", True))[::-1]).value == 0.0, "whichever was finished first"
    spelled = votes(("A", False), ("(B)", True), ("B.", True), ("A", False), ("b", True))
    assert majority(spelled).value == 1.0, "one answer in three spellings"
    assert majority(votes((None, False), (None, False), ("pink", True))).value == 1.0
    assert majority(votes((None, False))).value == 0.0


def test_figures_of_several_samples_exist_where_there_are_several() -> None:
    several = [answered("a", k == 0, str(k), sample=k) for k in range(4)]
    assert {"pass@1", "pass@2", "pass@4", "majority"} <= summarize(several).keys()
    assert "pass@1" not in summarize(several[:1])


def test_several_samples_of_an_example_are_compared_by_their_mean() -> None:
    first = [answered("a", k < 3, sample=k) for k in range(4)] + [answered("b", True, sample=k) for k in range(4)]
    second = [answered("a", k < 1, sample=k) for k in range(4)] + [answered("b", True, sample=k) for k in range(4)]
    found = compare(first, second)
    assert (found.difference, found.n, found.only_first, found.only_second) == (0.25, 2, 1, 0)
