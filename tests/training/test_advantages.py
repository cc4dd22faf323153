"""Advantages, averages over tokens and every form of the policy loss, against a plain implementation by loops.

The plain implementation is written from the papers' formulas, sample by sample and token by token in Python
floats; gradients are compared with its finite differences.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vigorl_lib.training.advantages import AdvantageKind, LossAverage, group_advantages, token_weights
from vigorl_lib.training.losses import MAX_KL, ClipRange, importance_weights, policy_loss

CLIP = ClipRange(low=0.2, high=0.28, dual=3.0)
MAX_TOKENS = 8


@dataclass
class Rolled:
    """One sample: its advantage and per token new, old, sampler and reference log-probs."""

    advantage: float
    new: list[float]
    old: list[float]
    sampler: list[float]
    reference: list[float]


def plain_loss(samples: list[Rolled], average: str, ratio: str, cap: float, kl_coef: float) -> float:
    total = 0.0
    all_tokens = sum(len(sample.new) for sample in samples)
    for sample in samples:
        length, terms = len(sample.new), []
        for t in range(length):
            if ratio == "sequence":
                r = math.exp(sum(sample.new[k] - sample.old[k] for k in range(length)) / length)
            else:
                r = math.exp(sample.new[t] - sample.old[t])
            objective = min(sample.advantage * r, sample.advantage * min(max(r, 1 - CLIP.low), 1 + CLIP.high))
            if sample.advantage < 0:
                objective = max(objective, CLIP.dual * sample.advantage)
            if cap:
                objective *= min(math.exp(sample.old[t] - sample.sampler[t]), cap)
            d = sample.reference[t] - sample.new[t]
            terms.append(-objective + kl_coef * min(math.exp(d) - d - 1, MAX_KL))
        if average == "token":
            total += sum(terms) / all_tokens
        elif average == "sequence":
            total += sum(terms) / length / len(samples)
        else:
            total += sum(terms) / MAX_TOKENS / len(samples)
    return total


def our_loss(
    samples: list[Rolled], average: LossAverage, ratio: str, cap: float, kl_coef: float
) -> tuple[float, list[float]]:
    def flat(name: str) -> torch.Tensor:
        return torch.tensor([value for sample in samples for value in getattr(sample, name)], dtype=torch.float64)

    lengths = [len(sample.new) for sample in samples]
    per_sample = token_weights(lengths, average, max_tokens=MAX_TOKENS)
    sequences = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    new = flat("new").requires_grad_()
    loss = policy_loss(
        new,
        flat("old"),
        torch.tensor([sample.advantage for sample in samples], dtype=torch.float64)[sequences],
        clip=CLIP,
        weights=torch.tensor(per_sample, dtype=torch.float64)[sequences],
        sequences=sequences if ratio == "sequence" else None,
        importance=importance_weights(flat("old"), flat("sampler"), cap) if cap else None,
        reference=flat("reference") if kl_coef else None,
        kl_coef=kl_coef,
    ).loss
    loss.backward()
    assert new.grad is not None
    return float(loss.detach()), new.grad.tolist()


@st.composite
def rolled(draw: st.DrawFn) -> Rolled:
    length = draw(st.integers(1, 5))
    column = st.lists(st.floats(-3, -0.01), min_size=length, max_size=length)
    return Rolled(draw(st.floats(-2, 2)), draw(column), draw(column), draw(column), draw(column))


FORMS = list(itertools.product(("token", "sequence", "constant"), ("token", "sequence"), (0.0, 2.0), (0.0, 0.1)))


@pytest.mark.parametrize(("average", "ratio", "cap", "kl_coef"), FORMS)
@settings(max_examples=15, deadline=None)
@given(samples=st.lists(rolled(), min_size=1, max_size=4))
def test_every_form_of_the_loss_equals_the_plain_one(
    samples: list[Rolled], average: LossAverage, ratio: str, cap: float, kl_coef: float
) -> None:
    found, _ = our_loss(samples, average, ratio, cap, kl_coef)
    assert found == pytest.approx(plain_loss(samples, average, ratio, cap, kl_coef), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("average", "ratio", "cap", "kl_coef"), FORMS)
def test_every_gradient_equals_finite_differences_of_the_plain_loss(
    average: LossAverage, ratio: str, cap: float, kl_coef: float
) -> None:
    samples = [
        Rolled(1.5, [-1.0, -0.2, -2.0], [-1.1, -0.7, -1.5], [-1.0, -1.9, -1.4], [-0.5, -0.3, -2.2]),
        Rolled(-0.7, [-0.4, -1.3], [-0.9, -1.2], [-0.8, -1.3], [-0.6, -1.0]),
        Rolled(-2.0, [-0.1], [-2.5], [-2.4], [-0.2]),
    ]
    _, gradient = our_loss(samples, average, ratio, cap, kl_coef)
    differences, step = [], 1e-6
    for sample in samples:
        for t in range(len(sample.new)):
            sides = []
            for sign in (step, -step):
                sample.new[t] += sign
                sides.append(plain_loss(samples, average, ratio, cap, kl_coef))
                sample.new[t] -= sign
            differences.append((sides[0] - sides[1]) / (2 * step))
    assert gradient == pytest.approx(differences, abs=1e-6)


def test_a_sequence_ratio_does_not_reach_over_to_other_samples() -> None:
    alone = Rolled(1.0, [-1.0, -2.0], [-1.2, -1.9], [-1, -1], [-1, -1])
    other = Rolled(1.0, [-9.0], [-1.0], [-1], [-1])
    _, gradient = our_loss([alone], "constant", "sequence", 0.0, 0.0)
    _, both = our_loss([alone, other], "constant", "sequence", 0.0, 0.0)
    assert both[:2] == pytest.approx([value / 2 for value in gradient])


def plain_advantages(rewards: list[float], kind: str) -> list[float]:
    size = len(rewards)
    if kind == "leave_one_out":
        return [r - sum(rewards[:i] + rewards[i + 1 :]) / (size - 1) for i, r in enumerate(rewards)]
    mean = sum(rewards) / size
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (size - 1)) + 1e-6
    return [(r - mean) / (spread if kind == "std" else 1.0) for r in rewards]


@pytest.mark.parametrize("kind", ["std", "none", "leave_one_out"])
@given(rewards=st.lists(st.floats(-2, 2), min_size=2, max_size=9))
def test_advantages_equal_the_plain_ones(kind: AdvantageKind, rewards: list[float]) -> None:
    found = group_advantages(rewards, kind)
    assert found == pytest.approx(plain_advantages(rewards, kind), rel=1e-6, abs=1e-6)
    assert sum(found) == pytest.approx(0.0, abs=1e-4)


def test_advantages_are_those_worked_out_by_hand() -> None:
    # Mean 2, deviations -1 0 1, unbiased variance (1 + 0 + 1) / 2 = 1; the others of the last have mean 1.5.
    assert group_advantages([1.0, 2.0, 3.0], "std") == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
    assert group_advantages([0.0, 4.0], "none") == [-2.0, 2.0]
    assert group_advantages([1.0, 2.0, 3.0], "leave_one_out") == pytest.approx([-1.5, 0.0, 1.5])


@pytest.mark.parametrize("kind", ["std", "none", "leave_one_out"])
def test_equal_rewards_have_no_advantage(kind: AdvantageKind) -> None:
    assert group_advantages([0.5] * 4, kind) == [0.0] * 4


def test_a_group_of_one_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="two rewards"):
        group_advantages([1.0], "std")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_token_and_sequence_averages_sum_to_one(lengths: list[int]) -> None:
    for average in ("token", "sequence"):
        weights = token_weights(lengths, average, max_tokens=64)  # type: ignore[arg-type]
        assert sum(w * n for w, n in zip(weights, lengths, strict=True)) == pytest.approx(1.0)
