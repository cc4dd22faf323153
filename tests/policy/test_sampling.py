"""Drawing tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.sampling import RowSampler

CPU = torch.device("cpu")
VOCABULARY = 11


def sampler_of(samplings: list[Sampling], seeds: Iterable[int], *, forbidden: tuple[int, ...] = ()) -> RowSampler:
    seeds = list(seeds)
    return RowSampler(samplings, seeds, [()] * len(seeds), forbidden=forbidden, vocabulary=VOCABULARY, device=CPU)


def draw_many(logits: list[float], sampling: Sampling, count: int, forbidden: tuple[int, ...] = ()) -> np.ndarray:
    """Frequencies of `count` draws from one distribution, each with a seed of its own."""
    sampler = sampler_of([sampling] * count, range(count), forbidden=forbidden)
    tokens = sampler.draw(torch.tensor(logits).expand(count, -1)).tokens
    return np.bincount(tokens.numpy(), minlength=len(logits)) / count


def test_frequencies_follow_the_softmax() -> None:
    logits = [0.0, 1.0, 2.0, -1.0]
    found = draw_many(logits, Sampling(max_tokens=1), 20_000)
    assert np.abs(found - torch.softmax(torch.tensor(logits), 0).numpy()).max() < 0.015


def test_temperature_sharpens() -> None:
    found = draw_many([0.0, 1.0], Sampling(temperature=0.5, max_tokens=1), 20_000)
    assert found[1] == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.015)


def test_top_k_and_top_p_leave_only_the_head_in_its_proportions() -> None:
    logits = np.log([0.5, 0.3, 0.15, 0.05]).tolist()
    assert np.abs(draw_many(logits, Sampling(top_k=2, max_tokens=1), 20_000) - [0.625, 0.375, 0, 0]).max() < 0.015
    assert np.abs(draw_many(logits, Sampling(top_p=0.7, max_tokens=1), 20_000) - [0.625, 0.375, 0, 0]).max() < 0.015
    assert draw_many(logits, Sampling(top_p=0.1, max_tokens=1), 100).tolist() == [1, 0, 0, 0]


def test_a_forbidden_token_is_never_drawn_even_if_it_is_all_but_certain() -> None:
    for temperature in (0.0, 1.0):
        assert draw_many([30.0, 0.0, 0.0], Sampling(temperature=temperature, max_tokens=1), 500, (0,))[0] == 0


def test_logprobs_are_taken_after_temperature_and_before_any_cut() -> None:
    logits = torch.tensor([[0.3, 2.0, -1.0]])
    sampler = sampler_of([Sampling(temperature=0.5, top_k=1, max_tokens=1)], [0], forbidden=(0,))
    drawn = sampler.draw(logits)
    token, logprob = drawn.tokens, drawn.logprobs
    assert token.item() == 1
    assert logprob.item() == pytest.approx(torch.log_softmax(logits / 0.5, -1)[0, 1].item())


rows_of_a_batch = st.lists(
    st.tuples(st.integers(0, 2**31 - 1), st.sampled_from([0.0, 0.7, 1.0]), st.sampled_from([0, 3])),
    min_size=1,
    max_size=6,
)


@given(rows_of_a_batch, st.data())
@settings(max_examples=40, deadline=None)
def test_a_row_draws_the_same_alone_as_among_others(rows: list[tuple[int, float, int]], data: st.DataObject) -> None:
    samplings = [Sampling(temperature=temperature, top_k=top_k, max_tokens=4) for _, temperature, top_k in rows]
    logits = torch.randn(4, len(rows), 11, generator=torch.Generator().manual_seed(1))
    together = sampler_of(samplings, [seed for seed, _, _ in rows], forbidden=(2,))
    chosen = data.draw(st.integers(0, len(rows) - 1))
    alone = sampler_of([samplings[chosen]], [rows[chosen][0]], forbidden=(2,))
    for step in range(4):
        if step == 2:
            together = together.kept(torch.tensor([chosen]))
        own = logits[step, chosen : chosen + 1]
        tokens = together.draw(own if step >= 2 else logits[step]).tokens
        token = alone.draw(own).tokens
        assert tokens[0 if step >= 2 else chosen] == token[0]


settings_of_a_row = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7]),
    top_p=st.sampled_from([0.8, 1.0]),
    max_tokens=st.integers(4, 9),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    top_logprobs=st.sampled_from([0, 2]),
)


@given(st.lists(settings_of_a_row, min_size=2, max_size=2))
@settings(max_examples=40, deadline=None)
def test_a_row_that_joins_others_half_way_draws_as_it_would_alone(samplings: list[Sampling]) -> None:
    logits = torch.randn(8, 2, 11, generator=torch.Generator().manual_seed(2))
    first, second, alone = (sampler_of([samplings[row]], [row]) for row in (0, 1, 1))
    for step in range(4):
        first.draw(logits[step, :1])
    first = first.joined(second)
    for step in range(4):
        # What joins begins with its own first number, the other row goes on, here beyond its last.
        together = first.draw(logits[4 + step])
        expected = alone.draw(logits[4 + step, 1:])
        assert together.tokens[1] == expected.tokens[0]
        assert together.logprobs[1] == expected.logprobs[0]
        assert together.top(1)[: samplings[1].top_logprobs] == expected.top(0)


def test_one_row_draws_anew_at_every_step() -> None:
    sampler = sampler_of([Sampling(max_tokens=200)], [7], forbidden=())
    drawn = {sampler.draw(torch.zeros(1, 1000)).tokens.item() for _ in range(200)}
    assert len(drawn) > 150


def test_min_p_cuts_what_is_less_likely_than_its_share_of_the_likeliest() -> None:
    frequencies = draw_many([2.0, 1.5, -1.0, 0.0], Sampling(min_p=0.5, max_tokens=1), 2000)
    assert set(np.flatnonzero(frequencies)) == {0, 1}


def test_penalties_count_prompt_and_completion_as_their_definitions_say() -> None:
    """Repetition divides positive logits of tokens seen anywhere; frequency takes off per time in the completion."""
    sampling = Sampling(temperature=0.0, repetition_penalty=2.0, frequency_penalty=0.6, max_tokens=4)
    sampler = RowSampler([sampling], [0], [[0]], forbidden=(), vocabulary=4, device=CPU)
    logits = torch.tensor([[3.0, 2.0, 1.9, -5.0]])
    first = sampler.draw(logits)
    assert first.tokens.item() == 1  # 3.0 / 2 < 2.0
    assert first.logprobs.item() == pytest.approx(torch.log_softmax(logits, -1)[0, 1].item())
    assert sampler.draw(logits).tokens.item() == 2  # 2.0 / 2 - 0.6 < 1.9
    assert sampler.draw(logits).tokens.item() == 0  # 1.9 / 2 - 0.6 < 1.5
    assert sampler.draw(logits).tokens.item() == 0  # 3.0 / 2 - 0.6 > 0.4


def test_the_likeliest_tokens_are_reported_at_each_place() -> None:
    sampler = sampler_of([Sampling(top_logprobs=2, max_tokens=1)], [0])
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    expected = torch.log_softmax(logits, -1)[0]
    top = sampler.draw(logits).top(0)
    assert [token for token, _ in top] == [1, 2]
    assert [p for _, p in top] == pytest.approx(expected[[1, 2]].tolist())
