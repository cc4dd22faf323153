"""New weights for a running vLLM engine: fetched, checked against the checkpoint, and loaded in place.

All or nothing: digests, names and shapes are checked before the engine is touched, and should loading fail even so,
the weights from before are loaded again. Every cache that depends on weights is emptied. When nothing is in flight
is for the caller to see to (`vigorl_lib.policy.gate`); reading weights into our own engine is
`vigorl_lib.models.weights`.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import PolicyError
from vigorl_lib.models.weights import open_parent, shapes_of
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.storage import commit

if TYPE_CHECKING:
    from vigorl_lib.policy.vllm_engine import LaunchedEngine

log = logging.getLogger(__name__)

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FetchedWeights:
    """A folder with safetensors on this machine; `temporary` where it is a copy that may go after use."""

    folder: Path
    temporary: tempfile.TemporaryDirectory[str] | None = None

    def release_unless(self, kept: FetchedWeights) -> None:
        """Delete the copy unless it is the one that is kept."""
        if self is not kept and self.temporary is not None:
            self.temporary.cleanup()


def fetch(uri: str) -> FetchedWeights:
    """A committed folder in storage, its digests checked; one on this machine is linked, or else used where it lies.

    Raises StorageError (NOT_COMMITTED, OBJECT_CORRUPT …).
    """
    storage, name = open_parent(uri)
    temporary = tempfile.TemporaryDirectory(prefix="vigorl-weights-")
    kept = Path(temporary.name)
    if (folder := storage.local_path(name)) is None:
        commit.fetch(storage, name, kept)
        return FetchedWeights(kept, temporary)
    commit.verify(storage, name)
    try:
        # The learner deletes old versions, and this one may be needed again when loading a later one fails.
        for path in folder.glob("*.safetensors"):
            os.link(path, kept / path.name)
    except OSError:
        temporary.cleanup()
        return FetchedWeights(folder)
    return FetchedWeights(kept, temporary)


def check_fits(folder: Path, checkpoint: Path, *, tied: bool) -> None:
    """Raises PolicyError (WEIGHTS_MISMATCH) unless both hold the same tensors by name and shape; reads headers only."""
    found, expected = _by_canonical_name(folder), _by_canonical_name(checkpoint)
    if tied:
        # One of the two tied tensors may be left out, and either may be the one.
        for shapes in (found, expected):
            shapes.pop("lm_head.weight", None)
    problems = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unknown: {name}" for name in sorted(found.keys() - expected.keys())]
    problems += [
        f"{name} is {found[name]} and should be {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise PolicyError(
            f"the weights do not fit the model: {'; '.join(problems[:_SHOWN])}{more}", reason="WEIGHTS_MISMATCH"
        )


def _by_canonical_name(folder: Path) -> dict[str, tuple[int, ...]]:
    return {_canonical(name): shape for name, shape in shapes_of(folder).items()}


def _canonical(name: str) -> str:
    """A tensor's name in a live model; files of released checkpoints use an older one."""
    if name.startswith("visual."):
        return f"model.{name}"
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


class WeightsUpdater:
    """The weights that an engine holds. `broken` after a failed update whose old weights could not be restored."""

    def __init__(self, launched: LaunchedEngine, config: PolicyConfig) -> None:
        self._engine: Any = launched.engine
        self._checkpoint = launched.checkpoint
        self._tied = launched.tied
        self._name = config.name
        self.version = launched.version
        self.loaded = launched.weights
        self.broken = False

    def fetch(self, uri: str) -> FetchedWeights:
        """Weights that fit, on this machine. Blocks. Raises StorageError, PolicyError (WEIGHTS_MISMATCH …)."""
        fetched = fetch(uri)
        try:
            check_fits(fetched.folder, self._checkpoint, tied=self._tied)
        except BaseException:
            fetched.release_unless(self.loaded)
            raise
        return fetched

    async def load(self, version: int, fetched: FetchedWeights) -> None:
        """Load in place; call it while nothing is in flight. Raises PolicyError (UPDATE_FAILED)."""
        try:
            await self._reload(fetched.folder)
        except Exception as error:
            log.error("policy %s: loading version %d failed", self._name, version, exc_info=error)
            await self._restore()
            raise PolicyError(
                f"policy {self._name} could not load version {version} and keeps version {self.version}; "
                "its log has the reason",
                reason="UPDATE_FAILED",
                infrastructure=True,
            ) from error
        before, self.loaded, self.version = self.loaded, fetched, version
        before.release_unless(self.loaded)

    def close(self) -> None:
        self._engine = None
        if self.loaded.temporary is not None:
            self.loaded.temporary.cleanup()

    async def _restore(self) -> None:
        try:
            await self._reload(self.loaded.folder)
        except Exception as error:
            # Half-loaded weights answer nonsense: the process has to go.
            self.broken = True
            log.critical("policy %s: the weights from before could not be restored", self._name, exc_info=error)
            raise PolicyError(
                f"policy {self._name} has lost its weights; its server must be started again",
                reason="ENGINE_FAILED",
                infrastructure=True,
            ) from error

    async def _reload(self, folder: Path) -> None:
        await self._engine.pause_generation(mode="wait", clear_cache=True)
        try:
            await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            # The workers have dropped what they computed from images; a scheduler that still counts on it would fail.
            await self._engine.reset_encoder_cache()
            await self._engine.reset_mm_cache()
            if not await self._engine.reset_prefix_cache():
                raise RuntimeError("vLLM did not empty its prefix cache")
        finally:
            # An engine that stays paused would let every later request hang.
            if not self._engine.errored:
                await self._engine.resume_generation()
