"""Sequences end to end in one row, without padding: what a forward pass of training takes.

Linear layers see only real tokens. Attention must not cross sequences, so it is given their bounds
(`Packing`): on a GPU in half precision it runs flash attention for sequences of any length; elsewhere it
gathers sequences of like length into right-padded grids, where causality alone keeps padding out of every
result. Sequences that begin with the same prompt can share it: its tokens are in the row once, attended by
each. Worked example, two samples of the prompt `p q` (`a b` and `c`), and a third sequence:

    row        p q a b c x y z
    sequences  p q a b | p q c | x y z        as places in the row: 0 1 2 3 | 0 1 4 | 5 6 7
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.models.inputs import TokenSequence, like_lengths, mrope_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "vigorl_packed"
"""Name under which transformers knows `packed_attention`."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Which places of the row belong to which of S sequences, for attention.

    `grids` hold places as [sequences, length], `grid_order` [T] finds each token of the row in their
    concatenation. The same without padding: `flat` [places] with `bounds` [S + 1] (int32), the `longest`
    sequence, and `flat_order` [T]; without shared prompts `flat` and `flat_order` would be 0, 1, 2 … and are None.
    """

    grids: tuple[Tensor, ...]
    grid_order: Tensor
    flat: Tensor | None
    flat_order: Tensor | None
    bounds: Tensor
    longest: int

    def to(self, device: torch.device | str) -> Packing:
        return Packing(
            tuple(grid.to(device) for grid in self.grids),
            self.grid_order.to(device),
            None if self.flat is None else self.flat.to(device),
            None if self.flat_order is None else self.flat_order.to(device),
            self.bounds.to(device),
            self.longest,
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """A row of T tokens: `input_ids` [1, T], `position_ids` [3, 1, T], its images in order.

    `places` has for each sequence where its tokens are in the row.
    """

    input_ids: Tensor
    position_ids: Tensor
    packing: Packing
    images: tuple[Image, ...]
    places: tuple[NDArray[np.int64], ...]

    def to(self, device: torch.device | str) -> PackedBatch:
        return PackedBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.packing.to(device),
            self.images,
            self.places,
        )


def pack(sequences: Sequence[TokenSequence], *, resize: ResizeRule, prompts: Sequence[int] = ()) -> PackedBatch:
    """Put at least one sequence into a row.

    `prompts` says how many tokens of each sequence may be shared with another that begins with the same ones;
    no image may lie across that bound. Without it nothing is shared.
    """
    ids: list[int] = []
    positions: list[NDArray[np.int64]] = []
    images: list[Image] = []
    places: list[NDArray[np.int64]] = []
    shared: dict[Hashable, NDArray[np.int64]] = {}
    for sequence, prompt in zip(sequences, prompts or [0] * len(sequences), strict=True):
        known = shared.get(sequence.beginning(prompt), np.empty(0, dtype=np.int64))
        own = np.arange(len(ids), len(ids) + len(sequence) - len(known))
        place = np.concatenate((known, own))
        shared.setdefault(sequence.beginning(prompt), place[:prompt])
        ids += sequence.token_ids[len(known) :]
        positions.append(mrope_positions(sequence, resize)[0][:, len(known) :])
        images += [span.image for span in sequence.image_spans if span.start >= len(known)]
        places.append(place)
    return PackedBatch(
        torch.tensor([ids]),
        torch.from_numpy(np.concatenate(positions, axis=1)[:, None]),
        _packing(places, len(ids)),
        tuple(images),
        tuple(places),
    )


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let the language model of one of the families take `packing=` in its forward; without it nothing changes."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    config: Any = model.config.get_text_config()
    config._attn_implementation = ATTENTION


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence; [1, heads, T, width] -> [1, T, heads, width]. As transformers calls it."""
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return result
    states = (query.squeeze(0), key.squeeze(0), value.squeeze(0))
    if query.is_cuda and query.dtype != torch.float32 and _varlen_attention() is not None:
        return _attend_flat(*states, packing, scaling)[None], None
    return _attend_grids(*states, packing, scaling)[None], None


def _attend_grids(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None) -> Tensor:
    """[heads, T, width] -> [T, heads, width]."""
    parts = []
    for grid in packing.grids:
        index = grid.flatten()
        queries, keys, values = (
            states.index_select(1, index).view(len(states), *grid.shape, -1).transpose(0, 1)
            for states in (query, key, value)
        )
        attended = scaled_dot_product_attention(
            queries, keys, values, is_causal=True, scale=scaling, enable_gqa=len(query) != len(key)
        )
        parts.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).index_select(0, packing.grid_order)


def _attend_flat(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float | None) -> Tensor:
    """[heads, T, width] -> [T, heads, width]."""
    varlen: Any = _varlen_attention()
    states = [part.transpose(0, 1) for part in (query, key, value)]
    # A shared prompt's queries run again for each of its sequences: a little attention for a mask that
    # every kernel agrees on.
    if packing.flat is not None:
        states = [part.index_select(0, packing.flat) for part in states]
    attended: Tensor = varlen(
        *(part.contiguous() for part in states),
        packing.bounds,
        packing.bounds,
        packing.longest,
        packing.longest,
        scale=scaling,
        window_size=(-1, 0),
        enable_gqa=len(query) != len(key),
    )
    return attended if packing.flat_order is None else attended.index_select(0, packing.flat_order)


@cache
def _varlen_attention() -> Any:
    """PyTorch's flash attention over sequences of any length, None where this build does not have it."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _packing(places: Sequence[NDArray[np.int64]], tokens: int) -> Packing:
    lengths = [len(place) for place in places]
    # Padding repeats the sequence; what it gives is never read.
    grids = [np.stack([np.resize(places[index], lengths[grid[0]]) for index in grid]) for grid in like_lengths(lengths)]
    padded = np.concatenate([grid.ravel() for grid in grids])
    flat = np.concatenate(places)
    is_row = len(flat) == tokens
    return Packing(
        tuple(torch.from_numpy(grid) for grid in grids),
        torch.from_numpy(_first_places(padded, tokens)),
        None if is_row else torch.from_numpy(flat),
        None if is_row else torch.from_numpy(_first_places(flat, tokens)),
        torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)),
        max(lengths),
    )


def _first_places(index: NDArray[np.int64], tokens: int) -> NDArray[np.int64]:
    """Where each of the row's tokens first occurs in `index`."""
    found, first = np.unique(index, return_index=True)
    assert len(found) == tokens
    return first.astype(np.int64)
