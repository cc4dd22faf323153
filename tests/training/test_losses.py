"""Losses against numbers worked out by hand and against a plain per-token implementation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.training.losses import (
    ClipRange,
    cross_entropy,
    importance_weights,
    kl_k3,
    policy_loss,
)

CLIP = ClipRange(low=0.2, high=0.28, dual=3.0)


def loss_of_one(ratio: float, advantage: float) -> float:
    logprobs = torch.tensor([math.log(ratio)])
    return float(
        policy_loss(logprobs, torch.zeros(1), torch.tensor([advantage]), clip=CLIP, weights=torch.ones(1)).loss
    )


def test_cross_entropy_divides_by_the_tokens_of_the_whole_batch() -> None:
    halves = [torch.tensor([-1.0, -2.0]), torch.tensor([-6.0])]
    assert sum(float(cross_entropy(half, 3)) for half in halves) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.1, 2.0, -2.2),  # Inside the range: minus advantage times ratio.
        (1.5, 2.0, -2.56),  # Beyond 1.28 a good token earns nothing more.
        (0.5, 2.0, -1.0),  # Below the range a good token is still pushed up.
        (0.5, -2.0, 1.6),  # A bad token below 0.8 is not pushed down further.
        (2.0, -2.0, 4.0),  # Above the range it is,
        (9.0, -2.0, 6.0),  # but at most three times its advantage.
    ],
)
def test_clipping_is_asymmetric_and_dual(ratio: float, advantage: float, expected: float) -> None:
    assert loss_of_one(ratio, advantage) == pytest.approx(expected, rel=1e-5)


def test_the_share_that_was_clipped_is_counted() -> None:
    ratios, advantages = torch.tensor([1.0, 1.5, 0.5, 9.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    result = policy_loss(ratios.log(), torch.zeros(4), advantages, clip=CLIP, weights=torch.full((4,), 0.25))
    assert float(result.clipped) == 3


def test_on_policy_the_gradient_is_minus_the_weighted_advantage() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    weights = torch.tensor([0.5, 2.0])
    advantages = torch.tensor([3.0, -1.0])
    half = torch.full((2,), 0.5)
    policy_loss(logprobs, logprobs.detach(), advantages, clip=CLIP, weights=half, importance=weights).loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.75, 1.0])


def test_kl_is_zero_at_the_reference_and_added_by_its_coefficient() -> None:
    logprobs, reference = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -2.0])
    # d = reference - policy = -1: exp(-1) + 1 - 1.
    assert kl_k3(logprobs, reference).tolist() == pytest.approx([0.0, math.exp(-1.0)])
    half = torch.full((2,), 0.5)
    result = policy_loss(logprobs, logprobs, torch.zeros(2), clip=CLIP, weights=half, reference=reference, kl_coef=0.1)
    assert float(result.loss) == pytest.approx(0.1 * math.exp(-1.0) / 2)
    assert float(result.kl) == pytest.approx(math.exp(-1.0))
    two = policy_loss(
        logprobs, logprobs, torch.zeros(2), clip=CLIP, weights=half, reference=reference - 1.0, kl_coef=0.1
    )
    assert float(two.kl) == pytest.approx(math.exp(-1.0) + math.exp(-2.0) + 1.0)


def test_importance_weights_are_ratios_cut_at_the_cap() -> None:
    weights = importance_weights(torch.tensor([-1.0, 0.0]), torch.tensor([-2.0, 1.0]), 2.0)
    assert weights.tolist() == pytest.approx([2.0, math.exp(-1.0)])


@given(st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=8))
def test_the_loss_equals_a_plain_sum_over_tokens(tokens: list[tuple[float, float, float]]) -> None:
    new, old, advantages = (torch.tensor(column, dtype=torch.float64) for column in zip(*tokens, strict=True))
    found = policy_loss(new, old, advantages, clip=CLIP, weights=torch.full_like(new, 1 / len(tokens))).loss

    def plain(logprob: float, before: float, advantage: float) -> float:
        ratio = math.exp(logprob - before)
        loss = max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.28))
        return min(loss, -3 * advantage) if advantage < 0 else loss

    assert float(found) == pytest.approx(sum(plain(*token) for token in tokens) / len(tokens), rel=1e-6, abs=1e-9)


@given(st.floats(-20, 0), st.floats(-20, 0))
def test_k3_is_never_negative(logprob: float, reference: float) -> None:
    assert float(kl_k3(torch.tensor([logprob]), torch.tensor([reference]))) >= -1e-6


def test_ratios_beyond_any_number_leave_loss_and_gradient_finite() -> None:
    logprobs = torch.tensor([0.0, 0.0, -500.0], requires_grad=True)
    old, advantages = torch.tensor([-500.0, -500.0, 0.0]), torch.tensor([1.0, -1.0, 1.0])
    loss = policy_loss(logprobs, old, advantages, clip=CLIP, weights=torch.ones(3), reference=old, kl_coef=0.1).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()
