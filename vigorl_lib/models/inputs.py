"""Batches of token sequences for a model: padding, masks and three-axis positions.

Engine and trainer both build their batches here, so that they put every token at the same place. Positions
follow M-RoPE of the Qwen-VL families: text advances all three axes (time, height, width) by one; an image
of h x w visual tokens spans its grid from the position before it, and the text goes on max(h, w) later.
Pixels are not touched here: `Batch.images` names the images in the order in which the model wants them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan, Segment, flat_image_spans, flat_token_ids

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_GRID_PADDING = 0.05
"""Sequences of like length form a grid while padding takes at most this share of it."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """A rendered conversation; the spans' `start` counts from its first token."""

    token_ids: tuple[int, ...]
    image_spans: tuple[ImageSpan, ...] = ()

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> TokenSequence:
        """All segments as one sequence; each must have been rendered."""
        segments = tuple(segments)
        return cls(flat_token_ids(segments), tuple(flat_image_spans(segments)))

    def __len__(self) -> int:
        return len(self.token_ids)

    def beginning(self, tokens: int) -> Hashable:
        """Equal for sequences whose first `tokens` tokens and the images among them are equal."""
        images = tuple(span.image.sha256 for span in self.image_spans if span.start < tokens)
        return self.token_ids[:tokens], images


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences padded to L tokens.

    `input_ids` and `attention_mask` (1 on real tokens) are [B, L], `position_ids` [3, B, L];
    `next_positions` [B] is the position, on all axes, of the token that would follow each sequence.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    next_positions: Tensor
    images: tuple[Image, ...]

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            self.position_ids.to(device),
            self.next_positions.to(device),
            self.images,
        )


def collate(
    sequences: Sequence[TokenSequence], *, padding: int, resize: ResizeRule, side: Literal["left", "right"]
) -> Batch:
    """Pad to the longest. Generation pads on the left, so that all rows end together; training on the right.

    Example: two sequences of 3 and 2 tokens, padded right, have `attention_mask` [[1, 1, 1], [1, 1, 0]].
    """
    import torch

    rows, length = len(sequences), max(len(sequence) for sequence in sequences)
    ids = np.full((rows, length), padding, dtype=np.int64)
    mask = np.zeros((rows, length), dtype=np.int64)
    positions = np.zeros((3, rows, length), dtype=np.int64)
    following = np.zeros(rows, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        start = length - len(sequence) if side == "left" else 0
        place = slice(start, start + len(sequence))
        ids[row, place] = sequence.token_ids
        mask[row, place] = 1
        positions[:, row, place], following[row] = mrope_positions(sequence, resize)
    images = tuple(span.image for sequence in sequences for span in sequence.image_spans)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(positions),
        torch.from_numpy(following),
        images,
    )


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Indexes of sequences, longest first, in grids that hold little padding (`MAX_GRID_PADDING`) each.

    >>> like_lengths([10, 100, 99, 10])
    [[1, 2], [0, 3]]
    """
    grids: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        places = lengths[grids[-1][0]] * (len(grids[-1]) + 1) if grids else 0
        if grids and tokens + lengths[index] >= (1.0 - MAX_GRID_PADDING) * places:
            grids[-1].append(index)
            tokens += lengths[index]
        else:
            grids.append([index])
            tokens = lengths[index]
    return grids


def mrope_positions(sequence: TokenSequence, resize: ResizeRule) -> tuple[NDArray[np.int64], int]:
    """Positions [3, tokens] of a sequence, and the position of the token that would follow."""
    positions = np.empty((3, len(sequence)), dtype=np.int64)
    done, position = 0, 0
    for span in sequence.image_spans:
        text = span.start - done
        positions[:, done : span.start] = np.arange(position, position + text)
        position += text
        size = resize.model_size(span.image.size)
        rows, columns = size.height // resize.factor, size.width // resize.factor
        grid = slice(span.start, span.start + span.length)
        positions[0, grid] = position
        positions[1, grid] = position + np.repeat(np.arange(rows), columns)
        positions[2, grid] = position + np.tile(np.arange(columns), rows)
        position += max(rows, columns)
        done = span.start + span.length
    rest = len(sequence) - done
    positions[:, done:] = np.arange(position, position + rest)
    return positions, position + rest
