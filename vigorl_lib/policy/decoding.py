"""A batch through a model: prompts are prefilled and join it, all its samples advance token by token, those that are
done leave; and scores of given tokens.

Rows of different lengths and with different images are padded on the left and share one KV cache; the samples of one
prompt share its prefill. Rows that are finished leave the batch once they are a good part of it, or when others join.
This module knows neither asyncio nor queues: `vigorl_lib.policy.worker` drives it from its thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from vigorl_lib.models.features import FeatureCache, encoder_outputs
from vigorl_lib.models.inputs import Batch, TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.pixels import View
from vigorl_lib.policy.base import FinishReason, Sampling, TopLogprobs
from vigorl_lib.policy.kv_cache import KeyValueCache
from vigorl_lib.policy.sampling import RowSampler
from vigorl_lib.policy.stops import StopDetector
from vigorl_lib.policy.work import Generate

LEAVE_SHARE = 0.25
"""Share of finished rows at which the batch is compacted; copying the cache costs about one step."""

SCORE_TOKENS_PER_PASS = 8_192
"""Padded tokens that are scored together; bounds the memory of their logits."""


@dataclass(slots=True, eq=False)
class Row:
    """One sample in the making."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The samples of one order, in the order of its seeds."""

    order: Generate
    rows: tuple[Row, ...]

    @property
    def done(self) -> bool:
        return all(row.finish for row in self.rows)

    def abort(self) -> None:
        """Its rows leave the batch with those that are done."""
        for row in self.rows:
            row.finish = row.finish or FinishReason.ABORTED


class Decoder:
    """A loaded model with its feature cache and the batch that it works on. For one thread."""

    def __init__(self, loaded: LoadedModel, *, feature_cache_bytes: int) -> None:
        self._model: Any = loaded.model
        self._processor = loaded.image_processor
        self._renderer = loaded.renderer
        self._resize = loaded.resize
        self._features = FeatureCache(max_bytes=feature_cache_bytes)
        self._batch: _Batch | None = None
        self.stops = StopDetector(loaded.renderer)

    def weights_changed(self) -> None:
        """Forget what the old weights computed; the batch must be empty."""
        self._features.clear()

    @property
    def rows(self) -> int:
        """Samples in the batch that go on."""
        return 0 if self._batch is None else sum(row.finish is None for _, row in self._batch.rows)

    def clear(self) -> None:
        """Drop the batch."""
        self._batch = None

    @torch.inference_mode()
    def join(self, orders: Sequence[Generate]) -> list[Group]:
        """Prefill some orders and put their samples into the batch. Whatever it raises, the batch is as it was."""
        groups = [Group(order, tuple(Row() for _ in order.seeds)) for order in orders]
        joining = self._prefill(groups)
        if self._batch is None or not self._batch.leave(share=0.0):
            self._batch = joining
        else:
            self._batch.join(joining)
        return groups

    @torch.inference_mode()
    def draw(self) -> list[Group]:
        """One token for every sample of the batch; the groups that it completes, all of whose rows are finished."""
        batch = self._batch
        if batch is None:
            return []
        drawn = batch.sampler.draw(batch.logits)
        completed: list[Group] = []
        for position, (token, logprob) in enumerate(zip(drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True)):
            group, row = batch.rows[position]
            if row.finish is None:
                self._append(group.order.sampling, row, token, logprob, drawn.top(position))
                if row.finish and group.done:
                    completed.append(group)
        batch.tokens = drawn.tokens
        return completed

    @torch.inference_mode()
    def advance(self) -> None:
        """Drop the rows that are done, feed each of the others its last token."""
        if self._batch is None:
            return
        if self._batch.leave(share=LEAVE_SHARE):
            self._advance(self._batch)
        else:
            self._batch = None

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

    def _prefill(self, groups: Sequence[Group]) -> _Batch:
        """A batch of its own after its prompts; equal prompts, as of a group's samples, are computed once."""
        orders = [group.order for group in groups]
        places: dict[TokenSequence, int] = {}
        owner = [places.setdefault(order.sequence, len(places)) for order in orders for _ in order.seeds]
        collated = self._collate(list(places), "left")
        cache = KeyValueCache()
        views = {digest: view for order in orders for digest, view in order.views.items()}
        hidden = self._forward(collated, views, cache)
        logits = self._model.lm_head(hidden[:, -1])
        sampler = RowSampler(
            [order.sampling for order in orders for _ in order.seeds],
            [seed for order in orders for seed in order.seeds],
            [order.sequence.token_ids for order in orders for _ in order.seeds],
            forbidden=self._renderer.forbidden,
            vocabulary=logits.shape[-1],
            device=logits.device,
        )
        rows = [(group, row) for group in groups for row in group.rows]
        mask, positions = collated.attention_mask, collated.next_positions
        if len(owner) > len(places):
            chosen = torch.tensor(owner, device=hidden.device)
            cache.keep(chosen)
            logits, mask, positions = logits[chosen], mask[chosen], positions[chosen]
        return _Batch(rows, sampler, cache, logits, mask, positions)

    def _collate(self, sequences: Sequence[TokenSequence], side: Literal["left", "right"]) -> Batch:
        batch = collate(
            sequences,
            padding=self._renderer.padding,
            resize=self._resize,
            side=side,
        )
        return batch.to(self._model.device)

    def _forward(self, batch: Batch, views: dict[str, View], cache: KeyValueCache | None) -> Tensor:
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

    def _append(self, sampling: Sampling, row: Row, token: int, logprob: float, top: TopLogprobs) -> None:
        row.token_ids.append(token)
        row.logprobs.append(logprob)
        if sampling.top_logprobs:
            row.top_logprobs.append(top[: sampling.top_logprobs])
        row.finish = self.stops.finished(row.token_ids, sampling)

    def _advance(self, batch: _Batch) -> None:
        """Feed each row its last token. Rows that are done but still in the batch go on unread."""
        batch.mask = pad(batch.mask, (0, 1), value=1)
        output = self._model.model.language_model(
            input_ids=batch.tokens[:, None],
            attention_mask=batch.mask,
            position_ids=batch.positions[None, :, None].expand(3, -1, -1),
            past_key_values=batch.cache,
            use_cache=True,
        )
        batch.positions = batch.positions + 1
        batch.logits = self._model.lm_head(output.last_hidden_state[:, -1])


@dataclass(slots=True)
class _Batch:
    """R rows in decoding: KV cache of L places, next logits [R, V], mask [R, L], next positions [R], tokens [R]."""

    rows: list[tuple[Group, Row]]
    sampler: RowSampler
    cache: KeyValueCache
    logits: Tensor
    mask: Tensor
    positions: Tensor
    tokens: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = torch.zeros_like(self.positions)

    def leave(self, *, share: float) -> bool:
        """Drop the rows that are done, if they are at least this share of the batch; whether others are left.

        Whatever it raises, the batch is as it was.
        """
        alive = [position for position, (_, row) in enumerate(self.rows) if row.finish is None]
        leaving = len(self.rows) - len(alive)
        if alive and leaving and leaving >= share * len(self.rows):
            self._keep(alive)
        return bool(alive)

    def join(self, other: _Batch) -> None:
        """Take over another batch's rows, behind the own ones. Whatever it raises, this one is as it was."""
        places = max(self.mask.shape[1], other.mask.shape[1])
        mask = torch.cat([pad(mask, (places - mask.shape[1], 0)) for mask in (self.mask, other.mask)])
        logits = torch.cat([self.logits, other.logits])
        positions = torch.cat([self.positions, other.positions])
        tokens = torch.cat([self.tokens, other.tokens])
        sampler = self.sampler.joined(other.sampler)
        self.cache.join(other.cache)
        self.rows, self.sampler, self.mask = self.rows + other.rows, sampler, mask
        self.logits, self.positions, self.tokens = logits, positions, tokens

    def _keep(self, alive: list[int]) -> None:
        chosen = torch.tensor(alive, device=self.logits.device)
        logits, positions, tokens = self.logits[chosen], self.positions[chosen], self.tokens[chosen]
        mask = self.mask[chosen]
        # The longest rows may have left: places that nobody uses any more go too.
        unused = int((mask.cumsum(1) == 0).all(0).sum())
        sampler = self.sampler.kept(chosen)
        self.cache.keep(chosen, unused=unused)
        self.rows, self.sampler, self.mask = [self.rows[position] for position in alive], sampler, mask[:, unused:]
        self.logits, self.positions, self.tokens = logits, positions, tokens


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
