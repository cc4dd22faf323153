"""The families' vision towers over many small images at once, for where flash-attn is not at hand.

The stock attention goes image by image in a Python loop, and the stock patch embedding is a convolution that
processors run slowly. Here all windows of one length are one batched call, and the embedding is one matrix
product; for still images, which is all that we have, parameters and results are the same. Nothing about the
weights or their names changes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

ATTENTIONS = frozenset({"VisionAttention", "Qwen2_5_VLVisionAttention", "Qwen3VLVisionAttention"})
PATCH_EMBEDDINGS = frozenset({"PatchEmbed", "Qwen2_5_VisionPatchEmbed", "Qwen3VLVisionPatchEmbed"})
"""Classes by name, so that a checkpoint of one family does not import the modules of the others."""

Rotate = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class BatchedVisionAttention(nn.Module):
    """Forward of the stock attentions, which it is mixed into; parameters and results are the same."""

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    head_dim: int
    scaling: float
    rotate: Rotate
    """The family's own rotation of queries and keys."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """`hidden_states` is [tokens, width]; `cu_seqlens` [windows + 1] holds the bounds of the windows."""
        assert position_embeddings is not None
        tokens = hidden_states.shape[0]
        # `unbind` joins the three gradients in one piece; indexing would fill three with zeros and add them.
        query, key, value = self.qkv(hidden_states).view(tokens, 3, self.num_heads, self.head_dim).unbind(1)
        packed = torch.stack((*self.rotate(query, key, *position_embeddings), value))
        bounds = cu_seqlens.tolist()
        lengths = [end - start for start, end in pairwise(bounds)]
        if len(set(lengths)) == 1:
            attended = self._attend(packed, lengths[0])
        else:
            attended = torch.empty_like(query)
            for length in set(lengths):
                starts = [start for start, found in zip(bounds, lengths, strict=False) if found == length]
                rows = torch.cat([torch.arange(start, start + length) for start in starts]).to(hidden_states.device)
                attended = attended.index_copy(0, rows, self._attend(packed[:, rows], length))
        projected: Tensor = self.proj(attended.reshape(tokens, -1))
        return projected

    def _attend(self, packed: Tensor, length: int) -> Tensor:
        """Attend within consecutive windows; [3, tokens, heads, width] -> [tokens, heads, width]."""
        windows = packed.view(3, -1, length, *packed.shape[2:])
        query, key, value = windows.transpose(2, 3)
        return scaled_dot_product_attention(query, key, value, scale=self.scaling).transpose(1, 2).flatten(0, 1)


class PatchProjection(nn.Conv3d):
    """The convolution whose stride is its kernel, written as the matrix product that it is.

    A still image is a film of equal frames, so one frame and the sum of the filters over frames do.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[patches, channels, equal frames, height, width], each patch as large as the kernel -> [patches, width]."""
        return linear(input[:, :, 0].flatten(1), self.weight.sum(2).flatten(1), self.bias)


def batch_equal_windows(model: nn.Module) -> None:
    """Replace attention and patch projection of a loaded model's vision tower in place.

    Models of other families are left alone, and so is the attention of one that uses flash-attn.
    """
    for module in model.modules():
        stock: Any = type(module)
        if stock.__name__ in ATTENTIONS and module.config._attn_implementation == "sdpa":  # type: ignore[union-attr]
            module.__class__ = _batched(stock)
        elif stock.__name__ in PATCH_EMBEDDINGS:
            # The class of the inner module is changed, not that of its owner: hooks that gather a partitioned
            # weight hang on the module that holds it.
            module.proj.__class__ = PatchProjection


@cache
def _batched(stock: type[nn.Module]) -> type[nn.Module]:
    """A family's attention class with the forward of `BatchedVisionAttention`."""
    rotate = staticmethod(sys.modules[stock.__module__].apply_rotary_pos_emb_vision)
    return type(f"Batched{stock.__name__}", (BatchedVisionAttention, stock), {"rotate": rotate})
