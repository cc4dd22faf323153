"""The order of sequences: complete epochs, shares kept, and a position that is the step alone."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.training.order import Limits, Prompt, batches, draws, plan_micro_batches


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


def test_skipping_steps_gives_the_batches_of_an_uninterrupted_run() -> None:
    whole = list(islice(batches(draws([50, 7], [2.0, 1.0], 3), 4), 30))
    assert all(len(batch) == 4 for batch in whole)
    assert list(islice(batches(draws([50, 7], [2.0, 1.0], 3), 4), 11, 30)) == whole[11:]


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    world=st.integers(1, 4),
    limits=st.builds(Limits, st.integers(1, 8), st.integers(1, 2000)),
    groups=st.integers(1, 40),
)
def test_a_plan_holds_every_sequence_once_within_the_limits_and_as_many_micro_batches_on_every_rank(
    lengths: list[int], world: int, limits: Limits, groups: int
) -> None:
    prompts = [Prompt(index % groups, min(lengths) // 2) for index in range(len(lengths))]
    plan = plan_micro_batches(lengths, world, limits, prompts=prompts)
    assert len({len(rank) for rank in plan}) == 1
    batches = [batch for rank in plan for batch in rank]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) <= limits.sequences for batch in batches)
    for batch in batches:
        shared = len(batch) - len({prompts[index].key for index in batch})
        tokens = sum(lengths[index] for index in batch) - shared * prompts[0].tokens
        assert tokens <= limits.tokens or len(batch) == 1


def test_a_plan_balances_tokens() -> None:
    plan = plan_micro_batches([100, 10, 90, 20], 2, Limits(2, 1000))
    assert [sum([100, 10, 90, 20][i] for batch in rank for i in batch) for rank in plan] == [110, 110]


def test_a_plan_balances_the_cost_of_long_tailed_sequences_and_their_attention() -> None:
    lengths = np.minimum(4000, np.random.default_rng(0).pareto(1.0, 64) * 300).astype(int) + 50
    costs = lengths * (1 + lengths / 2000)
    plan = plan_micro_batches(lengths.tolist(), 4, Limits(64, 4000), attention=1 / 2000)
    ranks = [sum(costs[index] for batch in rank for index in batch) for rank in plan]
    assert max(ranks) <= 1.05 * sum(ranks) / 4


def test_samples_of_a_prompt_stay_together_unless_a_rank_would_be_idle() -> None:
    prompts = [Prompt(index // 4, 50) for index in range(8)]
    two = plan_micro_batches([60] * 8, 2, Limits(64, 4000), prompts=prompts)
    assert two == [[[0, 1, 2, 3]], [[4, 5, 6, 7]]]
    four = plan_micro_batches([60] * 8, 4, Limits(64, 4000), prompts=prompts)
    assert sorted(map(tuple, (rank[0] for rank in four))) == [(0, 1), (2, 3), (4, 5), (6, 7)]
