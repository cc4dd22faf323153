"""The keys and values of a batch that rows join and leave: transformers' cache, and the two operations that it lacks.

Every layer keeps the whole past of every row, also one that looks at a window of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class KeyValueCache(Cache):
    """R rows, padded on the left to L tokens: in each layer `keys` and `values` [R, heads, L, width]."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)

    @property
    def _own(self) -> list[Any]:
        return self.layers

    def keep(self, rows: Tensor, *, unused: int = 0) -> None:
        """Keep only these rows, in this order, without their first `unused` places. If it raises, nothing was done."""
        self._replace([[tensor[rows, :, unused:] for tensor in (own.keys, own.values)] for own in self._own])

    def join(self, other: KeyValueCache) -> None:
        """Take over another cache's rows, behind the own ones. If it raises, nothing was done."""
        places = max(self.get_seq_length(), other.get_seq_length())
        pairs = zip(self._own, other._own, strict=True)
        self._replace(
            [[_stacked(own.keys, new.keys, places), _stacked(own.values, new.values, places)] for own, new in pairs]
        )

    def _replace(self, made: list[list[Tensor]]) -> None:
        for layer, (keys, values) in zip(self._own, made, strict=True):
            layer.keys, layer.values = keys, values


def _stacked(own: Tensor, new: Tensor, places: int) -> Tensor:
    return torch.cat([pad(one, (0, 0, places - one.shape[2], 0)) for one in (own, new)])
