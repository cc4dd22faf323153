"""Prefetch: same order, bounded, errors where they are due, and nothing left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vigorl_lib.training.prefetch import prefetched


def test_results_come_in_order_and_at_most_so_many_are_begun_ahead() -> None:
    begun: list[int] = []

    def make(item: int) -> int:
        begun.append(item)
        return item * item

    results = prefetched(iter(range(10)), make, ahead=2)
    assert next(results) == 0
    assert len(begun) <= 3
    assert list(results) == [number * number for number in range(1, 10)]


def test_what_is_ahead_of_an_endless_stream_is_bounded() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = prefetched(endless(), str, ahead=3)
    assert [next(results) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(taken) == 8
    results.close()


def test_an_error_is_raised_where_its_result_is_due() -> None:
    results = prefetched(iter([4, 2, 0, 1]), lambda item: 8 // item, ahead=3)
    assert [next(results), next(results)] == [2, 4]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_thread() -> None:
    results = prefetched(iter(range(10)), str, ahead=1)
    next(results)
    results.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())
