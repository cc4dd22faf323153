"""The order of sequences: complete epochs, shares kept, and a position that is the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.training.order import batches, draws, padding_share, plan_micro_batches


@given(size=st.integers(1, 20), seed=st.integers(0, 5), epochs=st.integers(1, 3))
def test_each_epoch_draws_every_item_once(size: int, seed: int, epochs: int) -> None:
    drawn = list(islice(draws([size], [1.0], seed), size * epochs))
    for epoch in range(epochs):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_sources_alternate_by_weight() -> None:
    drawn = list(islice(draws([10, 1000], [3.0, 1.0], seed=1), 400))
    assert sum(index < 10 for index in drawn) == 300
    assert Counter(index for index in drawn if index < 10) == dict.fromkeys(range(10), 30)


def test_an_empty_source_is_refused() -> None:
    with pytest.raises(ValueError, match="every source needs an item"):
        next(draws([3, 0], [1.0, 1.0], 0))


@pytest.mark.parametrize("window", [1, 4])
def test_skipping_steps_gives_the_batches_of_an_uninterrupted_run(window: int) -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 50)

    def stream() -> list[list[int]]:
        return list(islice(batches(draws([50], [1.0], 3), lengths, 4, window, 3), 30))

    whole = stream()
    assert whole == stream()
    assert list(islice(batches(draws([50], [1.0], 3), lengths, 4, window, 3), 11, 30)) == whole[11:]


def test_a_window_groups_like_lengths_and_loses_no_sequence() -> None:
    lengths = np.random.default_rng(0).integers(5, 100, 64)

    def padding(window: int) -> float:
        groups = list(islice(batches(draws([64], [1.0], 0), lengths, 8, window, 0), 8))
        assert sorted(index for group in groups for index in group) == list(range(64))
        return padding_share(lengths.tolist(), groups)

    assert padding(8) < 0.1 < padding(1)


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    world=st.integers(1, 4),
    micro_batch=st.integers(1, 8),
)
def test_a_plan_holds_every_sequence_once_in_as_many_micro_batches_on_every_rank(
    lengths: list[int], world: int, micro_batch: int
) -> None:
    plan = plan_micro_batches(lengths, world, micro_batch)
    assert len({len(rank) for rank in plan}) == 1
    assert sorted(index for rank in plan for batch in rank for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= micro_batch for rank in plan for batch in rank)


def test_a_plan_balances_tokens() -> None:
    plan = plan_micro_batches([100, 10, 90, 20], world=2, micro_batch=2)
    assert [sum([100, 10, 90, 20][i] for batch in rank for i in batch) for rank in plan] == [110, 110]
