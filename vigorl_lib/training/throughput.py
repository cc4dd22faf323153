"""What a training step costs: tokens and floating-point operations a second, share of the peak, memory.

Operations are those of the language model alone, by the usual count: 6 for each weight and token that it
multiplies, attention as 6 * layers * width * L² for a causal sequence of L tokens, the last layer only at trained
tokens. Recomputation (gradient checkpointing), the vision tower and prompts that are shared do not change the
count, so the share of the peak (MFU) falls and rises with them. With adapters (LoRA) about a third of the count is not
computed, for frozen weights need no gradient.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any

import torch

PEAK_BF16 = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""Dense bf16 operations a second by a part of the device's name."""


class Throughput:
    """Counts for one model on a number of equal devices."""

    def __init__(self, config: Any, *, device: torch.device, world: int) -> None:
        """`config` is the model's own; its language part counts."""
        text = config.get_text_config()
        width, head = text.hidden_size, getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads, shared = text.num_attention_heads, text.num_key_value_heads
        layer = width * head * (2 * heads + 2 * shared) + 3 * width * text.intermediate_size
        self._weights = text.num_hidden_layers * layer
        self._attention = text.num_hidden_layers * heads * head
        self._head = width * text.vocab_size
        self._device, self._world = device, world
        self._peak = _peak(device)

    def operations(self, lengths: Sequence[int], trained_tokens: int) -> float:
        """Floating-point operations of a forward and a backward pass over sequences of these lengths."""
        tokens, squares = sum(lengths), sum(length * length for length in lengths)
        return float(6 * (self._weights * tokens + self._attention * squares + self._head * trained_tokens))

    def metrics(self, lengths: Sequence[int], trained_tokens: int, seconds: float) -> dict[str, float]:
        """`tokens_per_s`, `memory_gib` of this rank at most so far, and `mfu` where the device's peak is known."""
        record = {"tokens_per_s": sum(lengths) / seconds, "memory_gib": _memory_bytes(self._device) / 2**30}
        if self._peak:
            record["mfu"] = self.operations(lengths, trained_tokens) / (seconds * self._peak * self._world)
        return record


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(device: torch.device) -> float:
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_BF16.items() if part in name), 0.0)
