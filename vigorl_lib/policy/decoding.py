"""One batch through a model: prefill the prompts, decode all samples together, score given tokens.

Prompts of different lengths and with different images are padded on the left and share one KV cache; the samples
of one prompt share its prefill. Rows that are finished leave the batch once they are a good part of it. This
module knows neither asyncio nor queues: `vigorl_lib.policy.transformers` drives it from its worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from vigorl_lib.models.features import FeatureCache, encoder_outputs
from vigorl_lib.models.inputs import Batch, TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.pixels import View
from vigorl_lib.policy.base import FinishReason, Sampling, TopLogprobs
from vigorl_lib.policy.sampling import RowSampler
from vigorl_lib.policy.stops import StopDetector
from vigorl_lib.policy.work import Generate

LEAVE_SHARE = 0.25
"""Share of finished rows at which the batch is compacted; copying the cache costs about one step."""

SCORE_TOKENS_PER_PASS = 8_192
"""Padded tokens that are scored together; bounds the memory of their logits."""


@dataclass(slots=True)
class Row:
    """One sample in the making. `request` is the index of its prompt in the batch."""

    request: int
    sampling: Sampling
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    finish: FinishReason | None = None


class Decoder:
    """A loaded model with its feature cache. For one thread."""

    def __init__(self, loaded: LoadedModel, *, feature_cache_bytes: int) -> None:
        self._model: Any = loaded.model
        self._processor = loaded.image_processor
        self._renderer = loaded.renderer
        self._resize = loaded.resize
        self._features = FeatureCache(max_bytes=feature_cache_bytes)
        self.stops = StopDetector(loaded.renderer)

    def weights_changed(self) -> None:
        """Forget what the old weights computed."""
        self._features.clear()

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Generate],
        *,
        on_finished: Callable[[int, list[Row]], None],
        cancelled: Callable[[int], bool],
    ) -> None:
        """Sample every request to its end; `on_finished` gets a request's rows as soon as all are done.

        A request for which `cancelled` turns true is dropped at the next token and not reported.
        """
        rows = [Row(index, request.sampling) for index, request in enumerate(requests) for _ in request.seeds]
        waiting = [[row for row in rows if row.request == index] for index in range(len(requests))]
        state = self._prefill(requests)
        sampler = RowSampler(
            [row.sampling for row in rows],
            [seed for request in requests for seed in request.seeds],
            [request.sequence.token_ids for request in requests for _ in request.seeds],
            forbidden=self._renderer.forbidden,
            vocabulary=state.logits.shape[-1],
            device=state.logits.device,
        )
        step = 0
        while True:
            drawn = sampler.draw(state.logits, step)
            tokens = drawn.tokens
            step += 1
            for position, (token, logprob) in enumerate(zip(tokens.tolist(), drawn.logprobs.tolist(), strict=True)):
                self._append(rows[position], token, logprob, drawn.top(position))
            for index, own in enumerate(waiting):
                if own and cancelled(index):
                    for row in own:
                        row.finish = row.finish or FinishReason.ABORTED
                    waiting[index] = []
                elif own and all(row.finish for row in own):
                    on_finished(index, own)
                    waiting[index] = []
            alive = [position for position, row in enumerate(rows) if row.finish is None]
            if not alive:
                return
            if len(rows) - len(alive) >= LEAVE_SHARE * len(rows):
                chosen = torch.tensor(alive, device=tokens.device)
                rows, tokens = [rows[position] for position in alive], tokens[chosen]
                sampler.keep(chosen)
                state.keep(chosen)
            self._advance(state, tokens)

    @torch.inference_mode()
    def score(self, sequences: Sequence[TokenSequence], views: dict[str, View]) -> list[list[float]]:
        """Log-probability of every token at temperature 1 given those before it; the first token's is 0."""
        results: list[list[float]] = []
        for group in _groups(sequences, SCORE_TOKENS_PER_PASS):
            batch = self._collate(group, "right")
            hidden = self._forward(batch, views, None)
            for row, sequence in enumerate(group):
                logits = self._model.lm_head(hidden[row, : len(sequence) - 1]).float()
                targets = batch.input_ids[row, 1 : len(sequence), None]
                logprobs = torch.log_softmax(logits, dim=-1).gather(-1, targets)[:, 0]
                results.append([0.0, *logprobs.tolist()])
        return results

    def _prefill(self, requests: Sequence[Generate]) -> _State:
        """State of all rows after their prompts; equal prompts, as of a group's samples, are computed once."""
        places: dict[TokenSequence, int] = {}
        owner = [places.setdefault(request.sequence, len(places)) for request in requests for _ in request.seeds]
        sequences = list(places)
        batch = self._collate(sequences, "left")
        cache = DynamicCache(config=self._model.config.get_text_config())
        views = {digest: view for request in requests for digest, view in request.views.items()}
        hidden = self._forward(batch, views, cache)
        state = _State(self._model.lm_head(hidden[:, -1]), cache, batch.attention_mask, batch.next_positions)
        if len(owner) > len(sequences):
            state.keep(torch.tensor(owner, device=hidden.device))
        return state

    def _collate(self, sequences: Sequence[TokenSequence], side: Literal["left", "right"]) -> Batch:
        batch = collate(
            sequences,
            padding=self._renderer.padding,
            resize=self._resize,
            side=side,
        )
        return batch.to(self._model.device)

    def _forward(self, batch: Batch, views: dict[str, View], cache: DynamicCache | None) -> Tensor:
        """Last hidden states [B, L, width] of whole sequences."""
        features = self._features.get(self._model, batch.images, views, self._processor)
        output = self._model.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            mm_encoder_outputs=encoder_outputs(features),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _append(self, row: Row, token: int, logprob: float, top: TopLogprobs) -> None:
        if row.finish is not None:
            return
        row.token_ids.append(token)
        row.logprobs.append(logprob)
        if row.sampling.top_logprobs:
            row.top_logprobs.append(top[: row.sampling.top_logprobs])
        row.finish = self.stops.finished(row.token_ids, row.sampling)

    def _advance(self, state: _State, tokens: Tensor) -> None:
        """Feed one token per row. Rows that are done but still in the batch go on unread."""
        state.mask = torch.cat([state.mask, state.mask.new_ones(len(tokens), 1)], dim=1)
        output = self._model.model.language_model(
            input_ids=tokens[:, None],
            attention_mask=state.mask,
            position_ids=state.positions[None, :, None].expand(3, -1, -1),
            past_key_values=state.cache,
            use_cache=True,
        )
        state.positions = state.positions + 1
        state.logits = self._model.lm_head(output.last_hidden_state[:, -1])


@dataclass(slots=True)
class _State:
    """R rows in decoding: logits [R, V], cache, attention mask [R, seen], next positions [R]."""

    logits: Tensor
    cache: DynamicCache
    mask: Tensor
    positions: Tensor

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.logits, self.mask, self.positions = self.logits[rows], self.mask[rows], self.positions[rows]


def _groups(sequences: Sequence[TokenSequence], max_tokens: int) -> list[list[TokenSequence]]:
    """Consecutive sequences whose padded size stays within `max_tokens`; at least one in a group."""
    groups: list[list[TokenSequence]] = []
    for sequence in sequences:
        if groups:
            longest = max(len(other) for other in (*groups[-1], sequence))
            if longest * (len(groups[-1]) + 1) <= max_tokens:
                groups[-1].append(sequence)
                continue
        groups.append([sequence])
    return groups
