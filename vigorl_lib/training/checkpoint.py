"""Checkpoints of training, and models made of them.

A checkpoint is DeepSpeed's own state of all ranks under `checkpoints/step-000120/`, its marker written last;
what has no marker does not exist. A model is a folder in Hugging Face format; making one of a checkpoint
needs neither the ranks nor a GPU. The position in the data is the step (see `vigorl_lib.training.order`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import ConfigError, CorruptObject, ObjectNotFound
from vigorl_lib.storage import commit
from vigorl_lib.storage.layout import RunLayout

if TYPE_CHECKING:
    from torch import Tensor

    from vigorl_lib.training.engine import Engine

_TAG = "state"


class Checkpoints:
    """Checkpoints of one run. Every rank makes every call."""

    def __init__(self, layout: RunLayout, engine: Engine, *, init: str, keep: int) -> None:
        self._layout, self._engine, self._keep = layout, engine, keep
        self._facts = {"init": init, "world": engine.world, "zero_stage": engine.config.zero_stage}

    def save(self, step: int) -> None:
        """Save the state after `step` steps, then delete all but the newest ones."""
        storage, prefix = self._layout.storage, self._layout.checkpoint(step)
        if self._engine.rank == 0:
            commit.discard(storage, prefix)
        self._engine.barrier()
        folder = storage.local_path(prefix)
        if folder is not None:
            self._engine.save(folder, _TAG)
        else:
            with tempfile.TemporaryDirectory() as temporary:
                self._engine.save(Path(temporary), _TAG)
                storage.upload_folder(Path(temporary), prefix)
        self._engine.barrier()
        if self._engine.rank == 0:
            commit.commit(storage, prefix, {"step": step, **self._facts})
            for old in checkpoint_steps(self._layout)[: -self._keep]:
                commit.discard(storage, self._layout.checkpoint(old))

    def resume(self) -> int:
        """Load the newest checkpoint; returns the steps that it has done, 0 where there is none.

        Raises ConfigError (RESUME_MISMATCH) for one of another world size or ZeRO stage.
        """
        steps = checkpoint_steps(self._layout)
        if not steps:
            return 0
        prefix = self._layout.checkpoint(steps[-1])
        meta = commit.committed(self._layout.storage, prefix) or {}
        for name in ("world", "zero_stage"):
            if meta.get(name) != self._facts[name]:
                raise ConfigError(
                    f"{prefix} was saved with {name} {meta.get(name)}, this run has {self._facts[name]}; "
                    "run it again as it was, or export the checkpoint and start from the model",
                    reason="RESUME_MISMATCH",
                )
        with local_checkpoint(self._layout, steps[-1]) as (folder, _):
            self._engine.load(folder, _TAG)
        self._engine.barrier()
        return steps[-1]


def checkpoint_steps(layout: RunLayout) -> list[int]:
    """Steps of the committed checkpoints, rising."""
    ending = f"/{commit.MARKER}"
    keys = [key for key in layout.storage.list(f"{layout.checkpoints}/step-") if key.endswith(ending)]
    return sorted(int(key.removesuffix(ending).rpartition("step-")[2]) for key in keys)


@contextmanager
def local_checkpoint(layout: RunLayout, step: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A committed checkpoint as a local folder, digests checked, and its meta. Raises ObjectNotFound, CorruptObject."""
    storage, prefix = layout.storage, layout.checkpoint(step)
    folder = storage.local_path(prefix)
    if folder is not None:
        yield folder, commit.verify(storage, prefix)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary), commit.fetch(storage, prefix, Path(temporary))


def export_hf(layout: RunLayout, folder: Path, *, step: int | None = None) -> int:
    """Write the model of a checkpoint, the newest by default, into `folder`; returns its step.

    What was not trained comes from the model that the run started from, which must still be there.
    Raises ObjectNotFound (NO_CHECKPOINT, NOT_COMMITTED), CorruptObject, PolicyError.
    """
    steps = checkpoint_steps(layout)
    if step is None and not steps:
        raise ObjectNotFound(f"{layout.storage.uri}: {layout.checkpoints} has no checkpoint", reason="NO_CHECKPOINT")
    step = steps[-1] if step is None else step
    with local_checkpoint(layout, step) as (saved, meta):
        weights = _trained_weights(saved, int(meta["zero_stage"]))
    write_model(str(meta["init"]), weights, folder)
    return step


def write_model(init: str, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the model at `init` with some of its weights replaced, complete, in Hugging Face format."""
    from vigorl_lib.models.loading import load_model, save_model
    from vigorl_lib.models.weights import assign_weights

    loaded = load_model(init, device="cpu")
    assign_weights(loaded.model, {**loaded.model.state_dict(), **weights})
    folder.mkdir(parents=True, exist_ok=True)
    save_model(loaded.model, loaded.tokenizer, loaded.image_processor, folder)


def commit_model(layout: RunLayout, init: str, weights: Mapping[str, Tensor], *, step: int) -> None:
    """Write a run's final model to storage under `model/`; once it is there, nothing changes it."""
    storage, prefix = layout.storage, model_key(layout)
    if commit.committed(storage, prefix) is None:
        commit.discard(storage, prefix)
        with tempfile.TemporaryDirectory() as temporary:
            write_model(init, weights, Path(temporary))
            storage.upload_folder(Path(temporary), prefix)
        commit.commit(storage, prefix, {"step": step, "init": init})


def has_model(layout: RunLayout) -> bool:
    """Whether the run's final model is committed: there is nothing left to train."""
    return commit.committed(layout.storage, model_key(layout)) is not None


def model_uri(layout: RunLayout) -> str:
    """Where a run's final model is, or will be."""
    return f"{layout.storage.uri.rstrip('/')}/{model_key(layout)}"


def model_key(layout: RunLayout) -> str:
    """Prefix of a run's final model."""
    return f"{layout.root}/model"


def _trained_weights(folder: Path, zero_stage: int) -> dict[str, Tensor]:
    """Parameters of a DeepSpeed checkpoint by the model's own names."""
    if zero_stage:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=_TAG)
        return {name.removeprefix("model."): tensor for name, tensor in state.items()}
    import torch

    path = folder / _TAG / "mp_rank_00_model_states.pt"
    if not path.is_file():
        raise CorruptObject(f"{folder}: expected {_TAG}/{path.name}, found none", reason="CHECKPOINT_UNREADABLE")
    state = torch.load(path, map_location="cpu", weights_only=False)["module"]
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}
