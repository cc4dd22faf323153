"""Draws the next token of every row of a batch, each row by its own rule and its own seed.

A row's draw k is the k-th uniform number of a generator seeded with the row's seed, turned into a token through
the cumulative distribution in vocabulary order. So a row's tokens follow from its own seed and distribution, and
its neighbours in the batch, which come and go with the load, do not matter.

The log-probability of a token is taken after temperature, without penalties and before any cut (top-k, top-p, min-p,
forbidden tokens): it is what `score` and a learner compute from the same logits. A greedy row (temperature 0)
reports log-probabilities at temperature 1.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from vigorl_lib.policy.base import Sampling, TopLogprobs

_PENALTIES = {"repetition", "frequency", "counts", "seen"}


@dataclass(frozen=True, slots=True)
class Drawn:
    """One draw of R rows: tokens [R], their log-probs [R]; the likeliest K tokens of each row and theirs, [R][K]."""

    tokens: Tensor
    logprobs: Tensor
    top_tokens: list[list[int]]
    top_logprobs: list[list[float]]

    def top(self, row: int) -> TopLogprobs:
        if not self.top_tokens:
            return ()
        return tuple(zip(self.top_tokens[row], self.top_logprobs[row], strict=True))


class RowSampler:
    """Sampling state of R rows. `kept` and `joined` go in step with the batch; `prompts` are the rows' prompts."""

    def __init__(
        self,
        samplings: Sequence[Sampling],
        seeds: Sequence[int],
        prompts: Sequence[Sequence[int]],
        *,
        forbidden: Sequence[int],
        vocabulary: int,
        device: torch.device,
    ) -> None:
        longest = max(sampling.max_tokens for sampling in samplings)
        uniforms = np.stack([np.random.default_rng(seed).random(longest) for seed in seeds])

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype)[:, None]

        self._rows = {
            "uniform": torch.from_numpy(uniforms).to(device),
            "drawn": column([0] * len(seeds), torch.long),
            "temperature": column([s.temperature or 1.0 for s in samplings], torch.float32),
            "greedy": column([s.temperature == 0.0 for s in samplings], torch.bool),
            "top_p": column([s.top_p for s in samplings], torch.float64),
            "top_k": column([s.top_k for s in samplings], torch.long),
            "min_p": column([s.min_p for s in samplings], torch.float64),
            "top_logprobs": column([s.top_logprobs for s in samplings], torch.long),
        }
        if any(s.repetition_penalty != 1.0 or s.frequency_penalty != 0.0 for s in samplings):
            self._rows["repetition"] = column([s.repetition_penalty for s in samplings], torch.float32)
            self._rows["frequency"] = column([s.frequency_penalty for s in samplings], torch.float32)
            self._rows["counts"] = torch.zeros(len(seeds), vocabulary, device=device)
            self._rows["seen"] = torch.zeros(len(seeds), vocabulary, device=device, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                self._rows["seen"][row, torch.tensor(list(prompt), device=device, dtype=torch.long)] = True
        self._forbidden = torch.tensor(list(forbidden), device=device, dtype=torch.long)
        self._scan_options()

    def kept(self, rows: Tensor) -> RowSampler:
        """These rows alone, in this order."""
        values = {name: values[rows] for name, values in self._rows.items()}
        if values.keys() >= _PENALTIES and bool(
            (values["repetition"] == 1.0).all() & (values["frequency"] == 0.0).all()
        ):
            # Two tables of the vocabulary's width, which only rows with penalties need.
            values = {name: value for name, value in values.items() if name not in _PENALTIES}
        return self._with(values)

    def joined(self, other: RowSampler) -> RowSampler:
        """The own rows, and another sampler's behind them."""
        rows: dict[str, Tensor] = {}
        for name in self._rows | other._rows:
            own, new = self._values(name, like=other), other._values(name, like=self)
            width = max(own.shape[1], new.shape[1])
            rows[name] = torch.cat([pad(values, (0, width - values.shape[1])) for values in (own, new)])
        return self._with(rows)

    def draw(self, logits: Tensor) -> Drawn:
        """The next token of every row, from logits [R, V]."""
        temperature = self._rows["temperature"]
        logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
        penalised = "counts" in self._rows
        wanted = self._penalised(logits.float()) if penalised else logits.float()
        # Forbidden before the softmax: where they held nearly all of the mass, the rest would vanish behind it.
        allowed = torch.log_softmax(wanted.index_fill(-1, self._forbidden, -torch.inf) / temperature, dim=-1)
        if self._all_greedy:
            tokens = allowed.argmax(-1)
        else:
            tokens = self._invert(allowed, self._uniforms())
            if self._any_greedy:
                tokens = torch.where(self._rows["greedy"][:, 0], allowed.argmax(-1), tokens)
        if penalised:
            ones = torch.ones_like(tokens[:, None], dtype=torch.float32)
            self._rows["counts"].scatter_add_(-1, tokens[:, None], ones)
            self._rows["seen"].scatter_(-1, tokens[:, None], True)
        self._rows["drawn"] += 1
        chosen = logprobs.gather(-1, tokens[:, None])[:, 0]
        if not self._top:
            return Drawn(tokens, chosen, [], [])
        best = logprobs.topk(min(self._top, logprobs.shape[-1]), dim=-1)
        return Drawn(tokens, chosen, best.indices.tolist(), best.values.tolist())

    def _with(self, rows: dict[str, Tensor]) -> RowSampler:
        other = copy.copy(self)
        other._rows = rows
        other._scan_options()
        return other

    def _values(self, name: str, *, like: RowSampler) -> Tensor:
        """The own rows' values, or, where only the other sampler has penalties, those that mean none."""
        if (values := self._rows.get(name)) is not None:
            return values
        shape = (len(self._rows["drawn"]), like._rows[name].shape[1])
        return like._rows[name].new_full(shape, 1 if name == "repetition" else 0)

    def _uniforms(self) -> Tensor:
        """Each row's number for its next draw; a row that is done may be beyond its last."""
        uniforms = self._rows["uniform"]
        return uniforms.gather(1, self._rows["drawn"].clamp(max=uniforms.shape[1] - 1))[:, 0]

    def _penalised(self, logits: Tensor) -> Tensor:
        factor = self._rows["repetition"]
        repeated = torch.where(logits > 0, logits / factor, logits * factor)
        return torch.where(self._rows["seen"], repeated, logits) - self._rows["frequency"] * self._rows["counts"]

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
        """Zero what lies below each row's min-p, then beyond its top-k, then beyond its top-p of the rest."""
        ordered, order = weights.sort(dim=-1, descending=True, stable=True)
        rank = torch.arange(weights.shape[-1], device=weights.device)
        top_k, top_p = self._rows["top_k"], self._rows["top_p"]
        ordered = torch.where(ordered < self._rows["min_p"] * ordered[:, :1], 0.0, ordered)
        ordered = torch.where((top_k > 0) & (rank >= top_k), 0.0, ordered)
        before = ordered.cumsum(-1) - ordered
        beyond = (top_p < 1.0) & (before >= top_p * ordered.sum(-1, keepdim=True))
        ordered = torch.where(beyond & (rank > 0), 0.0, ordered)
        return torch.zeros_like(weights).scatter(-1, order, ordered)

    def _scan_options(self) -> None:
        rows = self._rows
        self._top = int(rows["top_logprobs"].max())
        self._all_greedy = bool(rows["greedy"].all())
        self._any_greedy = bool(rows["greedy"].any())
        self._any_cut = bool(((rows["top_k"] > 0) | (rows["top_p"] < 1.0) | (rows["min_p"] > 0.0)).any())
