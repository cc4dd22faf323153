"""Losses and advantages as pure functions of tensors: what is optimised, and nothing of how.

All per-token tensors are flat, `[tokens]`, and hold trained tokens only, so there is no mask to forget.
Every loss is a sum over tokens divided by `normaliser`, the number of trained tokens of the whole batch
over all micro-batches and ranks: a token weighs the same wherever it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

STD_EPS = 1e-6
"""Added to a group's standard deviation."""
MAX_LOG_RATIO = 20.0
"""Log-ratios are held within this, so that no exponential overflows."""
MAX_KL = 10.0
"""A token's k3 term is held within this (as the paper's code does)."""


def cross_entropy(logprobs: Tensor, normaliser: float) -> Tensor:
    """Negative log-likelihood of the trained tokens, nats per token."""
    return -logprobs.sum() / normaliser


def group_advantages(rewards_G: Sequence[float], kind: Literal["std", "none"]) -> list[float]:
    """Reward minus the group's mean, divided by its unbiased standard deviation for `std`.

    >>> group_advantages([1.0, 0.0], "none")
    [0.5, -0.5]
    """
    rewards = torch.tensor(rewards_G, dtype=torch.float64)
    centred = rewards - rewards.mean()
    if kind == "std":
        if len(rewards_G) < 2:
            raise ValueError("a group needs two rewards for a standard deviation")
        centred = centred / (rewards.std() + STD_EPS)
    return [float(value) for value in centred]


@dataclass(frozen=True, slots=True)
class ClipRange:
    """Ratios beyond `1 - low` and `1 + high` earn nothing; a negative advantage costs at most `dual` times itself."""

    low: float
    high: float
    dual: float


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """`loss` carries the gradient; the others are sums over tokens, for metrics."""

    loss: Tensor
    clipped: Tensor
    """Tokens whose ratio was clipped against the advantage's sign, or capped by the dual clip."""
    kl: Tensor
    """k3 estimate of the divergence from the reference; 0 without one."""


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip: ClipRange,
    normaliser: float,
    weights: Tensor | None = None,
    reference: Tensor | None = None,
    kl_coef: float = 0.0,
) -> PolicyLoss:
    """The clipped policy gradient with an optional importance weight and KL term.

    `old_logprobs` are those of the weights that this batch started from; `weights` correct for the sampler
    (`importance_weights`) and carry no gradient.
    """
    ratio = (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
    pessimistic = torch.maximum(plain, bounded)
    cap = -advantages * clip.dual
    per_token = torch.where(advantages < 0, torch.minimum(pessimistic, cap), pessimistic)
    clipped = (bounded > plain) | ((advantages < 0) & (pessimistic > cap))
    if weights is not None:
        per_token = per_token * weights
    loss = per_token.sum()
    kl = torch.zeros((), device=logprobs.device)
    if reference is not None:
        kl = kl_k3(logprobs, reference).sum()
        loss = loss + kl_coef * kl
    return PolicyLoss(loss / normaliser, clipped.sum().detach(), kl.detach())


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = reference - policy; never negative."""
    difference = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (difference.exp() - difference - 1.0).clamp(max=MAX_KL)


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Trainer over sampler probability per token, at most `cap`; no gradient."""
    difference = (old_logprobs - sampler_logprobs).detach()
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)
