"""Drawing tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.sampling import RowSampler

CPU = torch.device("cpu")


def draw_many(logits: list[float], sampling: Sampling, count: int, forbidden: tuple[int, ...] = ()) -> np.ndarray:
    """Frequencies of `count` draws from one distribution, each with a seed of its own."""
    sampler = RowSampler([sampling] * count, range(count), forbidden=forbidden, device=CPU)
    tokens, _ = sampler.draw(torch.tensor(logits).expand(count, -1), 0)
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
    sampler = RowSampler([Sampling(temperature=0.5, top_k=1, max_tokens=1)], [0], forbidden=(0,), device=CPU)
    token, logprob = sampler.draw(logits, 0)
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
    together = RowSampler(samplings, [seed for seed, _, _ in rows], forbidden=(2,), device=CPU)
    chosen = data.draw(st.integers(0, len(rows) - 1))
    alone = RowSampler([samplings[chosen]], [rows[chosen][0]], forbidden=(2,), device=CPU)
    for step in range(4):
        if step == 2:
            together.keep(torch.tensor([chosen]))
        own = logits[step, chosen : chosen + 1]
        tokens, _ = together.draw(own if step >= 2 else logits[step], step)
        token, _ = alone.draw(own, step)
        assert tokens[0 if step >= 2 else chosen] == token[0]


def test_one_row_draws_anew_at_every_step() -> None:
    sampler = RowSampler([Sampling(max_tokens=200)], [7], forbidden=(), device=CPU)
    drawn = {sampler.draw(torch.zeros(1, 1000), step)[0].item() for step in range(200)}
    assert len(drawn) > 150
