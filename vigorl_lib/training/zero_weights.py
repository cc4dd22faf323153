"""Weights of a DeepSpeed checkpoint, read one at a time: no rank, no GPU, no second copy of the model.

ZeRO keeps the fp32 weights in flat vectors that are cut over the ranks; each rank's file is mapped into memory, and
reading a weight copies its own pieces alone. Reading the optimiser's state, or loading a checkpoint into an engine,
is DeepSpeed's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import CorruptObject

if TYPE_CHECKING:
    from torch import Tensor

_PREFIX = "model."
"""What the trained module puts before the names of the model's own parameters."""


_Parts = tuple[list["Tensor"], tuple[int, ...]]
"""Pieces of a weight in their order, and its shape."""


class ZeroWeights(Mapping[str, "Tensor"]):
    """fp32 weights by the model's own names; those that were not under the engine are missing."""

    def __init__(self, folder: Path, zero_stage: int) -> None:
        """`folder` has DeepSpeed's files. Raises CorruptObject (CHECKPOINT_UNREADABLE)."""
        self._parts: dict[str, _Parts] = {}
        models = _load_all(folder, "*_model_states.pt")
        if zero_stage == 0:
            self._parts = {name: ([tensor], tuple(tensor.shape)) for name, tensor in models[0]["module"].items()}
            return
        states = [state["optimizer_state_dict"] for state in _load_all(folder, "*_optim_states.pt")]
        groups = models[0]["param_shapes"]
        self._parts |= _stage_3(states, groups) if zero_stage == 3 else _stage_2(states, groups)
        for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
            ranks = models if zero_stage == 3 else models[:1]
            self._parts[name] = [rank["frozen_param_fragments"][name] for rank in ranks], tuple(shape)
        for alias, name in models[0]["shared_params"].items():
            if name in self._parts:
                self._parts[alias] = self._parts[name]

    def __getitem__(self, name: str) -> Tensor:
        import torch

        pieces, shape = self._parts[_PREFIX + name]
        # What is left over at the end is padding.
        return torch.cat([piece.flatten() for piece in pieces])[: math.prod(shape)].view(shape)

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(_PREFIX) for name in self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _stage_2(states: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, _Parts]:
    """Each group of parameters is one vector, cut over the ranks."""
    parts: dict[str, _Parts] = {}
    paddings = states[0].get("param_alignment_paddings")
    for group, shapes in enumerate(groups):
        shares = [state["single_partition_of_fp32_groups"][group] for state in states]
        start = 0
        for number, (name, shape) in enumerate(shapes.items()):
            parts[name] = _cut(shares, start, start + math.prod(shape)), tuple(shape)
            start += math.prod(shape) + (paddings[group][number] if paddings else 0)
    return parts


def _stage_3(states: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, _Parts]:
    """Each weight is cut over the ranks by itself into equal parts; a rank's parts lie behind one another."""
    parts: dict[str, _Parts] = {}
    start = 0
    for name, shape in ((name, shape) for group in groups for name, shape in group.items()):
        stop = start + math.ceil(math.prod(shape) / len(states))
        pieces = [_cut(state["fp32_flat_groups"], start, stop) for state in states]
        parts[name] = list(chain.from_iterable(pieces)), tuple(shape)
        start = stop
    return parts


def _cut(vectors: Sequence[Tensor], start: int, stop: int) -> list[Tensor]:
    """Elements `start` to `stop` of some vectors behind one another, as views."""
    pieces = []
    for vector in vectors:
        if start < vector.numel() and stop > 0:
            pieces.append(vector[max(start, 0) : stop])
        start, stop = start - vector.numel(), stop - vector.numel()
    return pieces


def _load_all(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """DeepSpeed's files of all ranks in their order, mapped into memory; nothing but data is unpickled."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    paths = sorted(folder.glob(pattern), key=lambda path: [int(number) for number in re.findall(r"\d+", path.name)])
    if not paths:
        raise CorruptObject(f"{folder}: expected {pattern}, found none", reason="CHECKPOINT_UNREADABLE")
    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return [torch.load(path, map_location="cpu", mmap=True, weights_only=True) for path in paths]
