"""From segments to what a forward pass of training takes: samples, and packed micro-batches of them.

A sample is a token sequence with the flag of every token that is trained; both are read off segments, and
text is never searched. Worked example, one zoom (`T` trained, `.` not):

    prompt . . . . | thought, zoom T T T | end of turn, crop . . . . | thought, answer T T T

Log-probabilities of a micro-batch are flat, in the order of samples and then of positions; whatever goes with
them (labels, advantages, the sampler's own log-probabilities) has the same order. Pixels are not here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.trajectory import Segment, trained_mask
from vigorl_lib.errors import DataError
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.models.packing import PackedBatch, pack


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence to train on. `positions` of trained tokens are never 0; the other arrays go with them."""

    sequence: TokenSequence
    positions: NDArray[np.int64]
    sampler_logprobs: NDArray[np.float32]
    """Natural log, after temperature; empty for a demonstration."""
    advantage: float = 0.0
    weight: float = 0.0
    """Share of each of its trained tokens in the loss of the batch; for a rollout."""

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def trained_tokens(self) -> int:
        return len(self.positions)

    @property
    def prompt_tokens(self) -> int:
        """Tokens before the first trained one, which other samples may begin with as well."""
        return int(self.positions[0]) if len(self.positions) else 0

    @property
    def prompt_key(self) -> Hashable:
        """Equal for samples that begin with the same prompt."""
        return self.sequence.beginning(self.prompt_tokens)

    def untrained(self) -> Sample:
        """The same sequence without a trained token."""
        return replace(self, positions=self.positions[:0], sampler_logprobs=self.sampler_logprobs[:0])


def sample_of(segments: Iterable[Segment], *, name: str, advantage: float = 0.0, weight: float = 0.0) -> Sample:
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
    return Sample(TokenSequence.of(segments), positions, np.array(logprobs, dtype=np.float32), advantage, weight)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A packed row and, flat over its N trained tokens, where they are and what they should be.

    The hidden state at `places` of the row predicts `labels`. `advantages`, `weights` and `sampler_logprobs` are [N];
    the latter is empty where samples have none. `sequences` [N] says which of the samples a token belongs to.
    """

    inputs: PackedBatch
    places: Tensor
    labels: Tensor
    advantages: Tensor
    weights: Tensor
    sequences: Tensor
    sampler_logprobs: Tensor

    def to(self, device: torch.device | str) -> MicroBatch:
        return MicroBatch(
            self.inputs.to(device),
            self.places.to(device),
            self.labels.to(device),
            self.advantages.to(device),
            self.weights.to(device),
            self.sequences.to(device),
            self.sampler_logprobs.to(device),
        )


def collate_samples(samples: Sequence[Sample], *, resize: ResizeRule) -> MicroBatch:
    """Packed micro-batch of at least one sample. Samples that begin with the same prompt share its tokens."""
    counts = [sample.trained_tokens for sample in samples]
    inputs = pack(
        [sample.sequence for sample in samples], resize=resize, prompts=[sample.prompt_tokens for sample in samples]
    )
    places = [place[sample.positions - 1] for sample, place in zip(samples, inputs.places, strict=True)]
    labels = [np.array(sample.sequence.token_ids)[sample.positions] for sample in samples]

    def per_token(values: Sequence[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), counts))

    return MicroBatch(
        inputs,
        torch.from_numpy(np.concatenate(places)),
        torch.from_numpy(np.concatenate(labels)),
        per_token([sample.advantage for sample in samples]),
        per_token([sample.weight for sample in samples]),
        torch.from_numpy(np.repeat(np.arange(len(samples)), counts)),
        torch.from_numpy(np.concatenate([sample.sampler_logprobs for sample in samples])),
    )
