"""Losses as pure functions of tensors: what is optimised, and nothing of how.

All per-token tensors are flat, `[tokens]`, and hold trained tokens only, so there is no mask to forget.
Every loss is a weighted sum over tokens whose weights refer to the whole batch over all micro-batches and ranks:
a token weighs the same wherever it falls. For demonstrations the weight is one over the number of trained tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are held within this, so that no exponential overflows."""
MAX_KL = 10.0
"""A token's k3 term is held within this (as the paper's code does)."""


def cross_entropy(logprobs: Tensor, normaliser: float) -> Tensor:
    """Negative log-likelihood of the trained tokens, nats per token."""
    return -logprobs.sum() / normaliser


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
    weights: Tensor,
    sequences: Tensor | None = None,
    importance: Tensor | None = None,
    reference: Tensor | None = None,
    kl_coef: float = 0.0,
) -> PolicyLoss:
    """The clipped policy gradient with an optional importance weight and KL term.

    `old_logprobs` are those of the weights that this batch started from; `weights` say what each token counts
    (`vigorl_lib.training.advantages.token_weights`). With `sequences`, the sample of each token, the ratio is one
    per sample: the geometric mean over its tokens (GSPO). `importance` corrects for the sampler
    (`importance_weights`); it and `weights` carry no gradient.
    """
    log_ratio = logprobs - old_logprobs
    if sequences is not None:
        log_ratio = _mean_by_sequence(log_ratio, sequences)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1.0 - clip.low, 1.0 + clip.high)
    pessimistic = torch.maximum(plain, bounded)
    cap = -advantages * clip.dual
    per_token = torch.where(advantages < 0, torch.minimum(pessimistic, cap), pessimistic)
    clipped = (bounded > plain) | ((advantages < 0) & (pessimistic > cap))
    if importance is not None:
        per_token = per_token * importance
    kl = torch.zeros((), device=logprobs.device)
    if reference is not None:
        divergence = kl_k3(logprobs, reference)
        per_token = per_token + kl_coef * divergence
        kl = divergence.sum()
    return PolicyLoss((per_token * weights).sum(), clipped.sum().detach(), kl.detach())


def _mean_by_sequence(values: Tensor, sequences: Tensor) -> Tensor:
    """For each token the mean over the tokens of its sequence."""
    sums = values.new_zeros(int(sequences.max()) + 1 if len(sequences) else 0).index_add(0, sequences, values)
    counts = torch.bincount(sequences, minlength=len(sums)).clamp(min=1)
    return (sums / counts)[sequences]


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = reference - policy; never negative."""
    difference = (reference - logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return (difference.exp() - difference - 1.0).clamp(max=MAX_KL)


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Trainer over sampler probability per token, at most `cap`; no gradient."""
    difference = (old_logprobs - sampler_logprobs).detach()
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().clamp(max=cap)
