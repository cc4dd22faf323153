"""Weights of another trainer's FSDP shards: `model_world_size_W_rank_r.pt`, W files of DTensors, read one at a time.

The files are mapped into memory and unpickled as data only: tensors, containers of them and the few classes that
describe how a tensor was cut, which are replaced by inert stand-ins here. Anything else that a file names is refused,
so a shard can run no code. Cut in one dimension (`fsdp`), and that repeated (`ddp`, `fsdp`), is what can be read;
tensor parallelism and partial sums are refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import CorruptObject, DataError, ObjectNotFound

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_MESHES = (("fsdp",), ("ddp", "fsdp"))
_MODULES = {
    # torch moved them between versions; the shards have the names of the version that wrote them.
    "DTensor": ("torch.distributed.tensor", "torch.distributed._tensor", "torch.distributed.tensor._api"),
    "DTensorSpec": ("torch.distributed.tensor._dtensor_spec", "torch.distributed._tensor.placement_types"),
    "TensorMeta": ("torch.distributed.tensor._dtensor_spec", "torch.distributed._tensor.placement_types"),
    "ShardOrderEntry": ("torch.distributed.tensor._dtensor_spec",),
    "Shard": ("torch.distributed.tensor.placement_types", "torch.distributed._tensor.placement_types"),
    "Replicate": ("torch.distributed.tensor.placement_types", "torch.distributed._tensor.placement_types"),
    "Partial": ("torch.distributed.tensor.placement_types", "torch.distributed._tensor.placement_types"),
    "DeviceMesh": ("torch.distributed.device_mesh", "torch.distributed._tensor.device_mesh"),
    "_MeshLayout": ("torch.distributed._mesh_layout",),
    "_FlatLayout": ("torch.distributed._mesh_layout",),
}


class FsdpShards(Mapping[str, "Tensor"]):
    """Whole tensors by the names in the shards; each access joins the parts of one."""

    def __init__(self, folder: Path) -> None:
        """Raises ObjectNotFound (SHARDS_MISSING), DataError (SHARDS_REFUSED), CorruptObject (SHARDS_UNREADABLE)."""
        self._ranks = [_load(path) for path in _paths(folder)]
        names = set(self._ranks[0])
        for rank, tensors in enumerate(self._ranks):
            if odd := sorted(names ^ set(tensors)):
                raise CorruptObject(
                    f"{folder}: rank {rank} has other tensors than rank 0, for example {odd[0]}; the shards are of "
                    "different checkpoints, or one was cut short",
                    reason="SHARDS_UNREADABLE",
                )

    def __getitem__(self, name: str) -> Tensor:
        import torch

        parts = [tensors[name] for tensors in self._ranks]
        dim = _shard_dim(name, parts[0])
        if dim is None:
            return _local(parts[0])
        # With `ddp` outside of `fsdp` the first ranks are the first whole copy.
        length = parts[0].shape[dim]
        pieces: list[Tensor] = []
        for part in parts:
            if sum(piece.shape[dim] for piece in pieces) < length:
                pieces.append(_local(part))
        whole = torch.cat(pieces, dim)
        if whole.shape != parts[0].shape:
            raise CorruptObject(
                f"{name}: the shards make {tuple(whole.shape)}, expected {tuple(parts[0].shape)}; one is missing or "
                "of another checkpoint",
                reason="SHARDS_UNREADABLE",
                tensor=name,
            )
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranks[0])

    def __len__(self) -> int:
        return len(self._ranks[0])


def _paths(folder: Path) -> list[Path]:
    found = {(int(match[1]), int(match[2])): path for path in folder.glob("*.pt") if (match := _NAME.match(path.name))}
    worlds = {world for world, _ in found}
    world = max(worlds, default=0)
    missing = [rank for rank in range(world) if (world, rank) not in found]
    if len(worlds) != 1 or missing:
        seen = f"none of rank {missing[0]}" if missing else "none"
        raise ObjectNotFound(
            f"{folder}: expected model_world_size_W_rank_r.pt of ranks 0 to W-1 for one W, found W = "
            f"{sorted(worlds)}, {seen}",
            reason="SHARDS_MISSING",
        )
    return [found[world, rank] for rank in range(world)]


def _load(path: Path) -> dict[str, Any]:
    """One rank's tensors, nothing run."""
    import torch

    # Other code may have allowed the real classes; of two for one name torch takes either.
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(_stand_ins()):
            loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)|function (<[^>]+>|\S+)|class (\S+)", str(error))
        what = next(filter(None, named.groups())) if named else str(error).strip().split("\n")[0]
        raise DataError(
            f"{path}: holds {what}, which is no plain tensor, container or description of shards; nothing of it was "
            "run and nothing is read",
            reason="SHARDS_REFUSED",
            path=path,
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0]
        raise CorruptObject(f"{path}: not readable ({first})", reason="SHARDS_UNREADABLE", path=path) from error
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
    if not isinstance(loaded, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in loaded.values()):
        raise DataError(f"{path}: expected tensors by name, found something else", reason="SHARDS_REFUSED", path=path)
    return loaded


def _stand_ins() -> list[Any]:
    """Classes that hold what the file says and do nothing, for each name under which torch wrote its own."""
    import torch

    class Described:
        """Anything but the tensor itself."""

        def __new__(cls, *values: Any, **_: Any) -> Described:
            made = super().__new__(cls)
            made.__dict__["values"] = values
            return made

        def __init__(self, *values: Any, **named: Any) -> None: ...

        def __setstate__(self, state: Any) -> None:
            parts = state if isinstance(state, tuple) else (state,)
            for part in parts:
                self.__dict__.update(part or {})

    class Cut(torch.Tensor):
        """A tensor that is cut over ranks: its shape is that of the whole."""

        @classmethod
        def __torch_dispatch__(  # type: ignore[override]
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            raise NotImplementedError(func)

    allowed: list[Any] = []
    for name, modules in _MODULES.items():
        kind: type = Cut if name == "DTensor" else type(name, (Described,), {})
        allowed += [(kind, f"{module}.{name}") for module in modules]
    return allowed


def _shard_dim(name: str, tensor: Any) -> int | None:
    """The dimension in which a tensor is cut; None where every rank has all of it. Raises DataError."""
    if not hasattr(tensor, "_spec"):
        return None
    mesh = tensor._spec.mesh
    names = tuple(getattr(mesh, "mesh_dim_names", None) or getattr(mesh, "_mesh_dim_names", None) or ())
    *outer, last = tensor._spec.placements
    kinds = [type(placement).__name__ for placement in (*outer, last)]
    known = set(kinds[:-1]) <= {"Replicate"} and kinds[-1] in ("Shard", "Replicate")
    if names not in _MESHES or not known:
        raise DataError(
            f"{name}: cut over the mesh {names} as {kinds}; expected Shard or Replicate over ('fsdp',), or that "
            "replicated over ('ddp', 'fsdp')",
            reason="SHARDS_REFUSED",
            tensor=name,
        )
    return int(last.dim) if kinds[-1] == "Shard" else None


def _local(tensor: Any) -> Tensor:
    part: Tensor = getattr(tensor, "_local_tensor", tensor)
    return part
