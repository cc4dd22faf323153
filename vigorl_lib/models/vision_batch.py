"""Attention of Qwen2.5-VL's vision tower over many images at once.

Without flash-attn the stock module attends image by image in a Python loop, which is most of the cost of a
batch of small images. Here all windows of one length are one batched call; the arithmetic is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)


class BatchedVisionAttention(Qwen2_5_VLVisionAttention):
    """Drop-in for the stock attention; parameters and results are the same."""

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
        qkv = self.qkv(hidden_states).view(tokens, 3, self.num_heads, self.head_dim)
        query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)
        packed = torch.stack((query, key, qkv[:, 2]))
        bounds = cu_seqlens.tolist()
        lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
        if len(set(lengths)) == 1:
            attended = self._attend(packed, lengths[0])
        else:
            attended = torch.empty_like(query)
            for length in set(lengths):
                rows = torch.cat(
                    [torch.arange(b, b + n) for b, n in zip(bounds, lengths, strict=False) if n == length]
                ).to(hidden_states.device)
                attended = attended.index_copy(0, rows, self._attend(packed[:, rows], length))
        return self.proj(attended.reshape(tokens, -1))

    def _attend(self, packed: Tensor, length: int) -> Tensor:
        """Attention within consecutive windows of `length` tokens; [3, tokens, heads, width] -> [tokens, heads, width]."""
        query, key, value = packed.unflatten(1, (-1, length)).transpose(2, 3)
        return scaled_dot_product_attention(query, key, value, scale=self.scaling).transpose(1, 2).flatten(0, 1)


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """The convolution whose stride is its kernel, written as the matrix product that it is."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[patches, channels x frames x height x width] -> [patches, width]."""
        weight = self.proj.weight.flatten(1)
        return linear(hidden_states.to(weight.dtype), weight)


def batch_equal_windows(model: nn.Module) -> int:
    """Replace the vision attention of a loaded model in place; returns how many layers were replaced.

    Modules of other families and models that use flash-attn are left alone.
    """
    replaced = 0
    for module in model.modules():
        if type(module) is Qwen2_5_VLVisionAttention and module.config._attn_implementation == "sdpa":
            module.__class__ = BatchedVisionAttention
            replaced += 1
        elif type(module) is Qwen2_5_VisionPatchEmbed:
            module.__class__ = LinearPatchEmbed
    return replaced
