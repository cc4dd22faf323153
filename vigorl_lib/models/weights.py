"""Weights as safetensors: written by a learner, read into a live model all or nothing.

Names are those of the model's own `state_dict`. A published version is a folder in storage with a commit
marker (`vigorl_lib.storage.commit`), holding one or more `*.safetensors`; whole checkpoints with their
configuration are `vigorl_lib.models.loading`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vigorl_lib.errors import PolicyError
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.current import CurrentWeights, check_marker, read_current

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE_NAME = "model.safetensors"

_SHOWN = 3


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> Path:
    """Write `model.safetensors` into a folder; the tensors must not share memory."""
    from safetensors.torch import save_file

    path = folder / FILE_NAME
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )
    return path


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder. Raises PolicyError (WEIGHTS_UNREADABLE)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            tensors.update(load_file(path))
    except (SafetensorError, OSError) as error:
        raise PolicyError(
            f"{folder}: not readable as safetensors ({error})", reason="WEIGHTS_UNREADABLE", folder=folder
        ) from error
    if not tensors:
        raise PolicyError(f"{folder}: expected *.safetensors, found none", reason="WEIGHTS_UNREADABLE", folder=folder)
    return tensors


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a folder by name, from the files' headers. Raises PolicyError (WEIGHTS_UNREADABLE)."""
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as file:
                shapes.update({name: tuple(file.get_slice(name).get_shape()) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PolicyError(
            f"{folder}: not readable as safetensors ({error})", reason="WEIGHTS_UNREADABLE", folder=folder
        ) from error
    if not shapes:
        raise PolicyError(f"{folder}: expected *.safetensors, found none", reason="WEIGHTS_UNREADABLE", folder=folder)
    return shapes


def fetch_weights(uri: str) -> dict[str, Tensor]:
    """Tensors of a committed folder in storage, digests checked.

    Raises StorageError (NOT_COMMITTED, OBJECT_CORRUPT …), PolicyError (WEIGHTS_UNREADABLE).
    """
    storage, name = open_parent(uri)
    if (folder := storage.local_path(name)) is not None:
        commit.verify(storage, name)
        return read_weights(folder)
    with tempfile.TemporaryDirectory() as temporary:
        commit.fetch(storage, name, Path(temporary))
        return read_weights(Path(temporary))


def wanted_weights(root: str) -> CurrentWeights | None:
    """What `CURRENT` below a run's weights names, its marker checked; None before the first version.

    Raises CorruptObject, StorageError.
    """
    current = read_current(open_storage(root))
    if current is not None:
        storage, name = open_parent(current.uri)
        check_marker(current, storage.read(f"{name}/{commit.MARKER}"))
    return current


def open_parent(uri: str) -> tuple[Storage, str]:
    """A folder in storage as the storage above it and its own name, as markers and downloads want it."""
    absolute = uri if "://" in uri else str(Path(uri).resolve())
    parent, _, name = absolute.rstrip("/").rpartition("/")
    return open_storage(f"{parent}/"), name


def assign_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a model in place; names and shapes are checked before the first is touched.

    Raises PolicyError (WEIGHTS_MISMATCH) and leaves the model as it was.
    """
    import torch

    state = model.state_dict()
    missing = sorted(state.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - state.keys())
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(state[name].shape)}"
        for name in sorted(state.keys() & tensors.keys())
        if tensors[name].shape != state[name].shape
    ]
    problems = [f"missing: {name}" for name in missing] + [f"unknown: {name}" for name in unknown] + shapes
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise PolicyError(
            f"the weights do not fit the model: {'; '.join(problems[:_SHOWN])}{more}", reason="WEIGHTS_MISMATCH"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
