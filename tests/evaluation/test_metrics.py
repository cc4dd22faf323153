from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.evaluation.metrics import (
    SampleRecord,
    accuracy,
    compare,
    mcnemar,
    split_by,
    summarize,
    wilson,
)


def sample(name: str, correct: bool, **rest: object) -> SampleRecord:
    values: dict[str, object] = {
        "outcome": "correct" if correct else "wrong",
        "stop": "answered",
        "answer": "pink",
        "turns": 1,
        "zooms": 0,
        "reward": 0.5,
    }
    return SampleRecord(name, correct, **(values | rest))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.490162, 0.943318),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
        (1, 1, 0.206549, 1.0),
        (150, 300, 0.443743, 0.556257),
    ],
)
def test_wilson_intervals_have_their_known_ends(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (found.value, found.n) == (successes / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)


def test_of_nothing_nothing_is_known() -> None:
    found = wilson(0, 0)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


@given(n=st.integers(1, 2000), share=st.floats(0, 1))
def test_a_share_lies_in_its_interval_which_narrows_with_n(n: int, share: float) -> None:
    successes = round(share * n)
    found, more = wilson(successes, n), wilson(4 * successes, 4 * n)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
    assert more.high - more.low < found.high - found.low
    mirrored = wilson(n - successes, n)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low))


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(1, 8, 20 / 512), (8, 1, 20 / 512), (0, 5, 2 / 32), (0, 1, 1.0), (0, 0, 1.0), (3, 3, 1.0), (4, 5, 1.0)],
)
def test_mcnemar_is_exact(first: int, second: int, p: float) -> None:
    assert mcnemar(first, second) == pytest.approx(p)


def test_mcnemar_of_many_pairs_neither_overflows_nor_vanishes() -> None:
    assert 0 < mcnemar(1000, 1200) < 0.001


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[SampleRecord], list[SampleRecord]]:
    outcomes = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    outcomes += [(False, False)] * neither
    return (
        [sample(f"e{k}", a) for k, (a, _) in enumerate(outcomes)],
        [sample(f"e{k}", b) for k, (_, b) in enumerate(outcomes)],
    )


def test_two_policies_are_compared_pair_by_pair() -> None:
    first, second = pairs(40, 30, 10, 20)
    found = compare(first, second[::-1], seed=3)
    assert (found.n, found.only_first, found.only_second) == (100, 30, 10)
    assert found.difference == pytest.approx(0.2)
    assert found.p_value == mcnemar(30, 10)
    # Normal approximation: 0.2 +- 1.96 * sqrt((0.4 - 0.04) / 100).
    assert (found.low, found.high) == pytest.approx((0.2 - 0.1176, 0.2 + 0.1176), abs=0.025)
    swapped = compare(second, first)
    assert swapped.difference == -found.difference


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(1, 20))
def test_a_bootstrap_interval_holds_the_difference_and_follows_its_seed(
    both: int, only_first: int, only_second: int, neither: int
) -> None:
    first, second = pairs(both, only_first, only_second, neither)
    found = compare(first, second, samples=500, seed=1)
    assert found.low - 1e-12 <= found.difference <= found.high + 1e-12
    assert found == compare(first, second, samples=500, seed=1)


def test_only_examples_that_both_answered_are_compared() -> None:
    found = compare([sample("a", True), sample("b", True)], [sample("b", False), sample("c", True)])
    assert (found.n, found.difference) == (1, 1.0)
    nothing = compare([sample("a", True)], [sample("b", True)])
    assert (nothing.n, nothing.low, nothing.high, nothing.p_value) == (0, -1.0, 1.0, 1.0)


def test_equal_policies_do_not_differ() -> None:
    first, second = pairs(5, 0, 0, 5)
    found = compare(first, second)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_records_are_split_by_a_tag_and_those_without_it_left_out() -> None:
    records = [sample("a", True, tags={"size": "small"}), sample("b", False, tags={"size": "large"}), sample("c", True)]
    parts = split_by(records, "size")
    assert list(parts) == ["large", "small"]
    assert [record.example_id for record in parts["small"]] == ["a"]
    assert split_by(records, "color") == {}


def test_a_cell_is_summed_up_in_plain_figures() -> None:
    records = [
        sample("a", True, zooms=2, turns=3, point_error_px=1.0, hit=True),
        sample("b", False, zooms=1, turns=2, point_error_px=5.0, hit=False, invalid={"outside": 2}),
        sample("c", False, stop="max_turns", outcome="no_answer", point_error_px=3.0, hit=True),
        sample("d", True, hit=False),
    ]
    found = summarize(records)
    assert found["n"] == 4
    assert found["accuracy"] == accuracy(records).value == 0.5
    assert found["zoom_rate"] == 0.5
    assert found["turns"] == 7 / 4
    assert (found["point_error_median_px"], found["point_error_mean_px"]) == (3.0, 3.0)
    assert (found["hit_rate"], found["pointed"]) == (0.5, 0.75)
    assert (found["invalid_turns"], found["invalid/outside"]) == (0.5, 0.5)
    assert (found["stop/answered"], found["stop/max_turns"]) == (0.75, 0.25)
    assert found["outcome/no_answer"] == 0.25


def test_where_nothing_was_pointed_at_there_is_no_error_instead_of_a_small_one() -> None:
    for records in ([], [sample("a", True)]):
        found = summarize(records)
        assert math.isnan(found["point_error_median_px"])
        assert math.isnan(found["hit_rate"])
        assert found["pointed"] == 0
