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
        """Keep only these rows, in this order, without their first `unused` places."""
        for layer in self._own:
            layer.keys, layer.values = layer.keys[rows, :, unused:], layer.values[rows, :, unused:]

    def join(self, other: KeyValueCache) -> None:
        """Take over another cache's rows, behind the own ones. Whatever it raises, this one is as it was."""
        places = max(self.get_seq_length(), other.get_seq_length())
        pairs = list(zip(self._own, other._own, strict=True))
        keys = [_stacked(own.keys, new.keys, places) for own, new in pairs]
        values = [_stacked(own.values, new.values, places) for own, new in pairs]
        for (own, _), key, value in zip(pairs, keys, values, strict=True):
            own.keys, own.values = key, value


def _stacked(own: Tensor, new: Tensor, places: int) -> Tensor:
    return torch.cat([pad(one, (0, 0, places - one.shape[2], 0)) for one in (own, new)])
