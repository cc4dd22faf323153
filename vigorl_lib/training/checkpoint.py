"""Checkpoints of training, and models made of them.

A checkpoint is DeepSpeed's own state of all ranks under `checkpoints/step-000120/`, its marker written last;
what has no marker does not exist. A model is a folder in Hugging Face format; making one of a checkpoint
needs neither the ranks nor a GPU. The position in the data is the step (see `vigorl_lib.training.order`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import ConfigError, ObjectNotFound
from vigorl_lib.models.export import export_model
from vigorl_lib.models.loading import DType
from vigorl_lib.storage import commit
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import CheckpointConfig
from vigorl_lib.training.lora import merged
from vigorl_lib.training.metrics import read_metrics, values_of
from vigorl_lib.training.reshard import UNIVERSAL, once_per_machine, to_universal
from vigorl_lib.training.zero_weights import ZeroWeights

if TYPE_CHECKING:
    from torch import Tensor

    from vigorl_lib.training.engine import Engine

log = logging.getLogger(__name__)

_TAG = "state"
_SHAPING = {
    *("zero_stage", "dtype", "optimizer", "betas", "eps", "weight_decay"),
    *("ema_decay", "module_lr", "freeze", "lora"),
}
"""Settings of the engine that a checkpoint's state was made for and holds; with others it means nothing."""


class Checkpoints:
    """Checkpoints of one run. Every rank makes every call."""

    def __init__(self, layout: RunLayout, engine: Engine, config: CheckpointConfig, *, init: str) -> None:
        self._layout, self._engine, self._config = layout, engine, config
        self._facts: dict[str, Any] = {
            "init": init,
            "world": engine.world,
            "engine": engine.config.model_dump(mode="json", include=_SHAPING),
            "best_metric": config.best_metric,
            "best_mode": config.best_mode,
        }

    def save(self, step: int) -> None:
        """Save the state after `step` steps, whose metrics are on record, then delete what the rule no longer keeps."""
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
            self._prune()

    def resume(self) -> int:
        """Load the newest checkpoint; returns the steps that it has done, 0 where there is none.

        One of another world size is converted first. Raises ConfigError (RESUME_MISMATCH) for other settings than those
        that its state was made with.
        """
        steps = checkpoint_steps(self._layout)
        if not steps:
            return 0
        prefix = self._layout.checkpoint(steps[-1])
        meta = _facts_of(commit.committed(self._layout.storage, prefix) or {}, prefix)
        _compare(prefix, meta["engine"], self._facts["engine"])
        if meta["init"] != self._facts["init"]:
            log.warning("%s was made of %s, and goes on beside %s", prefix, meta["init"], self._facts["init"])
        with self._fetched(prefix) as folder:
            if meta["world"] == self._engine.world or not meta["engine"]["zero_stage"]:
                self._engine.load(folder, _TAG)
            else:
                with once_per_machine(partial(to_universal, folder / _TAG)) as converted:
                    self._engine.load(converted, UNIVERSAL, universal=True)
        return steps[-1]

    @contextmanager
    def _fetched(self, prefix: str) -> Iterator[Path]:
        """A checkpoint as a folder that every rank of a machine reads; digests are checked once there."""
        storage = self._layout.storage
        local = storage.local_path(prefix)

        def fill(folder: Path) -> None:
            if local is None:
                commit.fetch(storage, prefix, folder)
            else:
                commit.verify(storage, prefix)

        with once_per_machine(fill) as folder:
            yield local or folder

    def _prune(self) -> None:
        """Keep the newest, and the best one that was measured; what has no marker is left of a kill and goes, too."""
        layout = self._layout
        kept = {layout.checkpoint(step) for step in checkpoint_steps(layout)[-self._config.keep :]}
        if (best := best_step(layout)) is not None:
            kept.add(layout.checkpoint(best))
        found = {key.removeprefix(f"{layout.checkpoints}/").partition("/")[0] for key in _keys(layout)}
        for prefix in {f"{layout.checkpoints}/{name}" for name in found} - kept:
            commit.discard(layout.storage, prefix)


def checkpoint_steps(layout: RunLayout) -> list[int]:
    """Steps of the committed checkpoints, rising."""
    ending = f"/{commit.MARKER}"
    keys = [key for key in _keys(layout) if key.endswith(ending)]
    return sorted(int(key.removesuffix(ending).rpartition("step-")[2]) for key in keys)


def newest_step(layout: RunLayout) -> int:
    """Step of the newest checkpoint. Raises ObjectNotFound (NO_CHECKPOINT)."""
    if steps := checkpoint_steps(layout):
        return steps[-1]
    raise ObjectNotFound(f"{layout.storage.uri}: {layout.checkpoints} has no checkpoint", reason="NO_CHECKPOINT")


def best_step(layout: RunLayout) -> int | None:
    """Step of the best checkpoint by the run's `best_metric`, the earlier of two equal; None where none was measured.

    What was measured is read from the run's metrics: a validation of GRPO comes with the step after the checkpoint.
    """
    steps = checkpoint_steps(layout)
    if not steps:
        return None
    rule = commit.committed(layout.storage, layout.checkpoint(steps[-1])) or {}
    measured = values_of(read_metrics(layout), rule["best_metric"])
    best = min if rule["best_mode"] == "min" else max
    return best((step for step in steps if step in measured), key=lambda step: measured[step], default=None)


def find_step(layout: RunLayout, wanted: str | None) -> int:
    """A step's number, `best`, or the newest for None. Raises ConfigError (STEP_INVALID), ObjectNotFound."""
    if wanted is None:
        return newest_step(layout)
    if wanted == "best":
        if (best := best_step(layout)) is not None:
            return best
        raise ObjectNotFound(
            f"{layout.storage.uri}: no checkpoint under {layout.checkpoints} measured a `checkpoint.best_metric`",
            reason="NO_CHECKPOINT",
        )
    if not wanted.isdecimal():
        raise ConfigError(f"--step: expected a number or `best`, found {wanted!r}", reason="STEP_INVALID")
    return int(wanted)


@contextmanager
def local_checkpoint(layout: RunLayout, step: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A committed checkpoint as a local folder, digests checked, and its meta.

    Raises ObjectNotFound, CorruptObject, ConfigError (RESUME_MISMATCH) for one of an earlier release.
    """
    storage, prefix = layout.storage, layout.checkpoint(step)
    folder = storage.local_path(prefix)
    if folder is not None:
        yield folder, _facts_of(commit.verify(storage, prefix), prefix)
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary), _facts_of(commit.fetch(storage, prefix, Path(temporary)), prefix)


def trained_weights(folder: Path, meta: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Weights of a local checkpoint by the model's own names. Raises CorruptObject (CHECKPOINT_UNREADABLE)."""
    engine = meta["engine"]
    return merged(ZeroWeights(folder / _TAG, engine["zero_stage"]), engine["lora"]["alpha"])


def export_hf(layout: RunLayout, folder: Path, *, step: int | None = None, dtype: DType = "auto") -> int:
    """Write the model of a checkpoint, the newest by default, into `folder`; returns its step.

    What was not trained comes from the model that the run started from, which must still be there.
    Raises ObjectNotFound (NO_CHECKPOINT, NOT_COMMITTED), CorruptObject, and as `export_model`.
    """
    step = newest_step(layout) if step is None else step
    with local_checkpoint(layout, step) as (saved, meta):
        export_model(trained_weights(saved, meta), str(meta["init"]), folder, dtype=dtype)
    return step


def commit_model(layout: RunLayout, init: str, weights: Mapping[str, Tensor], *, step: int) -> None:
    """Write a run's final model to storage under `model/`; once it is there, nothing changes it."""
    storage, prefix = layout.storage, model_key(layout)
    if commit.committed(storage, prefix) is None:
        commit.discard(storage, prefix)
        with tempfile.TemporaryDirectory() as temporary:
            model = Path(temporary) / "model"
            export_model(weights, init, model)
            storage.upload_folder(model, prefix)
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


def _compare(prefix: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises ConfigError (RESUME_MISMATCH) with every setting that differs."""
    before, after = _flat(saved), _flat(wanted)
    differing = [f"{name} {before[name]} (now {after[name]})" for name in after if before[name] != after[name]]
    if differing:
        raise ConfigError(
            f"{prefix} was saved with {', '.join(differing)}; set that back under `engine`, or export the "
            "checkpoint and start another stage from the model",
            reason="RESUME_MISMATCH",
        )


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the adapters beside the others, as `lora.rank`."""
    adapters = {f"lora.{name}": value for name, value in settings["lora"].items()}
    return {name: value for name, value in settings.items() if name != "lora"} | adapters


def _facts_of(meta: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a checkpoint's marker tells of it. Raises ConfigError (RESUME_MISMATCH) where it is of a release before."""
    if missing := [name for name in ("engine", "init", "world") if name not in meta]:
        raise ConfigError(
            f"{prefix} was saved by a release that did not note {', '.join(missing)}; export it with that release, and "
            "start another run from the model",
            reason="RESUME_MISMATCH",
        )
    return meta


def _keys(layout: RunLayout) -> list[str]:
    """Every object of every checkpoint, committed or not."""
    return layout.storage.list(f"{layout.checkpoints}/step-")
