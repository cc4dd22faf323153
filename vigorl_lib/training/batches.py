"""From segments to what a forward pass of training takes: samples, and right-padded micro-batches of them.

A sample is a token sequence with the flag of every token that is trained; both are read off segments, and
text is never searched. Worked example, one zoom (`T` trained, `.` not):

    prompt . . . . | thought, zoom T T T | end of turn, crop . . . . | thought, answer T T T

Log-probabilities of a micro-batch are flat, in the order of rows and then of positions; whatever goes with
them (labels, advantages, the sampler's own log-probabilities) has the same order. Pixels are not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.trajectory import Segment, trained_mask
from vigorl_lib.errors import DataError
from vigorl_lib.models.inputs import Batch, TokenSequence, collate


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to train on. `positions` of trained tokens are never 0; the other arrays go with them."""

    sequence: TokenSequence
    positions: NDArray[np.int64]
    sampler_logprobs: NDArray[np.float32]
    """Natural log, after temperature; empty for a demonstration."""
    advantage: float = 0.0

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def trained_tokens(self) -> int:
        return len(self.positions)

    def untrained(self) -> Sample:
        """The same sequence without a trained token."""
        return replace(self, positions=self.positions[:0], sampler_logprobs=self.sampler_logprobs[:0])


def sample_of(segments: Iterable[Segment], *, name: str, advantage: float = 0.0) -> Sample:
    """Sample of a rendered conversation, cut behind its last trained token, for nothing after it has an effect.

    Raises DataError (NOTHING_TRAINED) with `name` in it.
    """
    segments = list(segments)
    while segments and not segments[-1].trained:
        segments.pop()
    mask = np.array(trained_mask(segments), dtype=bool)
    positions = np.flatnonzero(mask)
    if not positions.size or positions[0] == 0:
        raise DataError(
            f"{name}: expected at least one trained segment behind the prompt, found none", reason="NOTHING_TRAINED"
        )
    logprobs = [value for segment in segments if segment.trained for value in segment.logprobs]
    if logprobs and len(logprobs) != positions.size:
        raise DataError(
            f"{name}: expected the sampler's log-prob of each of {positions.size} tokens, found {len(logprobs)}",
            reason="LOGPROBS_MISSING",
        )
    return Sample(TokenSequence.of(segments), positions, np.array(logprobs, dtype=np.float32), advantage)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Inputs [B, L] and, flat over its N trained tokens, where they are and what they should be.

    The hidden state at (`rows`, `columns`) predicts `labels`. `advantages` and `sampler_logprobs` are [N];
    the latter is empty where samples have none.
    """

    inputs: Batch
    rows: Tensor
    columns: Tensor
    labels: Tensor
    advantages: Tensor
    sampler_logprobs: Tensor

    def to(self, device: torch.device | str) -> MicroBatch:
        return MicroBatch(
            self.inputs.to(device),
            self.rows.to(device),
            self.columns.to(device),
            self.labels.to(device),
            self.advantages.to(device),
            self.sampler_logprobs.to(device),
        )


def collate_samples(samples: Sequence[Sample], *, padding: int, resize: ResizeRule) -> MicroBatch:
    """Right-padded micro-batch of at least one sample."""
    counts = [sample.trained_tokens for sample in samples]
    positions = np.concatenate([sample.positions for sample in samples])
    rows = torch.from_numpy(np.repeat(np.arange(len(samples)), counts))
    targets = torch.from_numpy(positions)
    inputs = collate([sample.sequence for sample in samples], padding=padding, resize=resize, side="right")
    return MicroBatch(
        inputs,
        rows,
        targets - 1,
        inputs.input_ids[rows, targets],
        torch.from_numpy(np.repeat(np.array([sample.advantage for sample in samples], dtype=np.float32), counts)),
        torch.from_numpy(np.concatenate([sample.sampler_logprobs for sample in samples])),
    )
