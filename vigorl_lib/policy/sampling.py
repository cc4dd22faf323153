"""Draws the next token of every row of a batch, each row by its own rule and its own seed.

A row's draw k is the k-th uniform number of a generator seeded with the row's seed, turned into a token through
the cumulative distribution in vocabulary order. So a row's tokens follow from its own seed and distribution, and
its neighbours in the batch, which come and go with the load, do not matter.

The log-probability of a token is taken after temperature and before any cut (top-k, top-p, forbidden tokens): it
is what `score` and a learner compute from the same logits, and the cuts only limit what can be drawn. A greedy
row (temperature 0) reports log-probabilities at temperature 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vigorl_lib.policy.base import Sampling


class RowSampler:
    """Sampling state of R rows; `keep` drops rows in step with the batch."""

    def __init__(
        self, samplings: Sequence[Sampling], seeds: Sequence[int], *, forbidden: Sequence[int], device: torch.device
    ) -> None:
        longest = max(sampling.max_tokens for sampling in samplings)
        uniforms = np.stack([np.random.default_rng(seed).random(longest) for seed in seeds])
        self._uniforms = torch.from_numpy(uniforms).to(device)
        self._temperature = torch.tensor([s.temperature or 1.0 for s in samplings], device=device)[:, None]
        self._greedy = torch.tensor([s.temperature == 0.0 for s in samplings], device=device)
        self._top_p = torch.tensor([s.top_p for s in samplings], device=device, dtype=torch.float64)[:, None]
        self._top_k = torch.tensor([s.top_k for s in samplings], device=device)[:, None]
        self._forbidden = torch.tensor(list(forbidden), device=device, dtype=torch.long)
        self._scan_options()

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self._uniforms, self._temperature, self._greedy = (
            self._uniforms[rows],
            self._temperature[rows],
            self._greedy[rows],
        )
        self._top_p, self._top_k = self._top_p[rows], self._top_k[rows]
        self._scan_options()

    def draw(self, logits: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Token ids [R] and log-probabilities [R] for draw number `step`, from logits [R, V]."""
        logprobs = torch.log_softmax(logits.float() / self._temperature, dim=-1)
        allowed = logprobs.index_fill(-1, self._forbidden, -torch.inf)
        if self._all_greedy:
            tokens = allowed.argmax(-1)
        else:
            tokens = self._invert(allowed, self._uniforms[:, step])
            if self._any_greedy:
                tokens = torch.where(self._greedy, allowed.argmax(-1), tokens)
        return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]

    def _invert(self, logprobs: Tensor, uniforms: Tensor) -> Tensor:
        # Double precision: in single, the tail of a large vocabulary vanishes in the cumulative sum.
        weights = logprobs.double().exp()
        if self._any_cut:
            weights = self._cut(weights)
        cumulative = weights.cumsum(-1)
        total = cumulative[:, -1:]
        # Strictly below the total, so that the search ends at a token whose weight is not zero.
        target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
        return torch.searchsorted(cumulative, target, right=True)[:, 0]

    def _cut(self, weights: Tensor) -> Tensor:
        """Zero what lies beyond each row's top-k, then beyond its top-p of the rest."""
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(weights.shape[-1], device=weights.device)
        ordered = torch.where((self._top_k > 0) & (rank >= self._top_k), 0.0, ordered)
        before = ordered.cumsum(-1) - ordered
        beyond = (self._top_p < 1.0) & (before >= self._top_p * ordered.sum(-1, keepdim=True))
        ordered = torch.where(beyond & (rank > 0), 0.0, ordered)
        return torch.zeros_like(weights).scatter(-1, order, ordered)

    def _scan_options(self) -> None:
        self._all_greedy = bool(self._greedy.all())
        self._any_greedy = bool(self._greedy.any())
        self._any_cut = bool(((self._top_k > 0) | (self._top_p < 1.0)).any())
