"""How much better a rollout was than its group, and how much each of its tokens counts in the loss.

Pure functions of rewards and lengths, by the names that recipes use; without torch, so that the producer can tell
with them what is worth training on. What the loss makes of them is `vigorl_lib.training.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

STD_EPS = 1e-6
"""Added to a group's standard deviation."""

AdvantageKind = Literal["std", "none", "leave_one_out"]
LossAverage = Literal["token", "sequence", "constant"]


def group_advantages(rewards_G: Sequence[float], kind: AdvantageKind) -> list[float]:
    """Advantages of the G ≥ 2 rollouts of one prompt.

    `none` is the reward minus the group's mean; `std` divides that by the unbiased standard deviation;
    `leave_one_out` subtracts the mean of the other rollouts instead, which makes the baseline independent.

    >>> group_advantages([1.0, 0.0], "none")
    [0.5, -0.5]
    >>> group_advantages([1.0, 0.0], "leave_one_out")
    [1.0, -1.0]
    """
    size = len(rewards_G)
    if size < 2:
        raise ValueError("a group needs two rewards to be compared")
    mean = fmean(rewards_G)
    if kind == "leave_one_out":
        scale = size / (size - 1)
    elif kind == "std":
        scale = 1.0 / (stdev(rewards_G) + STD_EPS)
    else:
        scale = 1.0
    return [(reward - mean) * scale for reward in rewards_G]


def token_weights(lengths_S: Sequence[int], average: LossAverage, *, max_tokens: int) -> list[float]:
    """Weight of each trained token of the S samples of one optimiser step, by sample.

    `token` averages over all tokens (DAPO): long samples count more. `sequence` averages over each sample first
    (GRPO as first published): short samples' tokens count more. `constant` divides each sample's sum by
    `max_tokens` (Dr. GRPO): no length has an advantage, and the scale does not depend on the batch's lengths.

    >>> token_weights([1, 3], "token", max_tokens=4), token_weights([1, 2], "sequence", max_tokens=4)
    ([0.25, 0.25], [0.5, 0.25])
    """
    samples, total = len(lengths_S), sum(lengths_S)
    if average == "token":
        return [1.0 / total] * samples
    if average == "sequence":
        return [1.0 / (samples * length) for length in lengths_S]
    return [1.0 / (samples * max_tokens)] * samples
