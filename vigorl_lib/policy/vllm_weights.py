"""New weights for a running vLLM engine: fetched or sent by a learner, checked against the checkpoint, loaded in place.

All or nothing: digests, names and shapes are checked before the engine is touched, and should loading fail even so,
the weights from before are loaded again, or those that storage wants where the ones from before came from a learner.
NCCL writes into the model while it receives, so this is also what follows a transfer that breaks off; gloo stages.
Every cache that depends on weights is emptied. When nothing is in flight is for the caller to see to
(`vigorl_lib.policy.gate`); reading weights into our own engine is `vigorl_lib.models.weights`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigorl_lib.errors import PolicyError
from vigorl_lib.models.weights import open_parent, shapes_of, wanted_weights
from vigorl_lib.policy.base import WeightTransfer
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transfer import DTYPES, WORKERS, join_store
from vigorl_lib.storage import commit

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from vigorl_lib.policy.vllm_engine import LaunchedEngine

log = logging.getLogger(__name__)

_SHOWN = 3
STAGED = frozenset({"gloo"})
"""Back ends that touch the model only once all workers have all tensors."""
_MEET_S = 10.0
"""How long a replica looks for the learner's store, seconds."""
_GRACE_S = 5.0
"""What a worker gets beyond a transfer's own limit to say that it has failed."""


@dataclass(frozen=True, slots=True)
class FetchedWeights:
    """A folder with safetensors on this machine; `temporary` where it is a copy that may go after use."""

    folder: Path
    temporary: tempfile.TemporaryDirectory[str] | None = None

    def release_unless(self, kept: FetchedWeights | None) -> None:
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


def check_fits(shapes: Mapping[str, tuple[int, ...]], checkpoint: Path, *, tied: bool) -> None:
    """Raises PolicyError (WEIGHTS_MISMATCH) unless the checkpoint holds the same tensors; reads its headers only."""
    found, expected = _by_canonical_name(shapes), _by_canonical_name(shapes_of(checkpoint))
    if tied:
        # One of the two tied tensors may be left out, and either may be the one.
        for side in (found, expected):
            side.pop("lm_head.weight", None)
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


def _by_canonical_name(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {_canonical(name): shape for name, shape in shapes.items()}


def _canonical(name: str) -> str:
    """A tensor's name in a live model; files of released checkpoints use an older one."""
    if name.startswith("visual."):
        return f"model.{name}"
    return re.sub(r"^model\.(?!language_model\.|visual\.)", "model.language_model.", name)


class WeightsUpdater:
    """The weights that an engine holds. `broken` after a failed update whose old weights could not be restored.

    `loaded` is None where a learner sent them.
    """

    def __init__(self, launched: LaunchedEngine, config: PolicyConfig) -> None:
        self._engine: Any = launched.engine
        self._checkpoint = launched.checkpoint
        self._tied = launched.tied
        self._name = config.name
        self._root = config.weights_root
        self._backend = config.vllm.weight_transfer
        self._workers = config.vllm.tensor_parallel_size * config.vllm.data_parallel_size
        self.version = launched.version
        self.loaded: FetchedWeights | None = launched.weights
        self.broken = False

    def fetch(self, uri: str) -> FetchedWeights:
        """Weights that fit, on this machine. Blocks. Raises StorageError, PolicyError (WEIGHTS_MISMATCH …)."""
        fetched = fetch(uri)
        try:
            check_fits(shapes_of(fetched.folder), self._checkpoint, tied=self._tied)
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
        self._hold(version, fetched)

    def check(self, transfer: WeightTransfer) -> None:
        """Raises PolicyError (NOT_SUPPORTED, WEIGHTS_MISMATCH) for what cannot be taken. Reads files."""
        if transfer.backend != self._backend or self._backend == "none":
            raise PolicyError(
                f"policy {self._name} takes weights by {self._backend}, not by {transfer.backend}; set "
                "vllm.weight_transfer here and weight_transfer of the learner to the same",
                reason="NOT_SUPPORTED",
            )
        shapes = {spec.name: spec.shape for spec in transfer.tensors}
        if len(shapes) < len(transfer.tensors) or not {spec.dtype for spec in transfer.tensors} <= DTYPES:
            raise PolicyError(
                f"the weights do not fit the model: expected each name once, of {', '.join(sorted(DTYPES))}",
                reason="WEIGHTS_MISMATCH",
            )
        check_fits(shapes, self._checkpoint, tied=self._tied)

    def meet(self, transfer: WeightTransfer) -> TCPStore:
        """The learner's store, met before anything is drained for it. Blocks. Raises PolicyError (UPDATE_FAILED)."""
        try:
            return join_store(transfer.address, transfer.port, min(_MEET_S, transfer.timeout_s))
        except RuntimeError as error:
            raise PolicyError(
                f"policy {self._name} does not reach the learner at {transfer.address}:{transfer.port}, or it has gone "
                "by now; allow the connection, or set weight_transfer none",
                reason="UPDATE_FAILED",
                infrastructure=True,
            ) from error

    async def receive(self, version: int, transfer: WeightTransfer, store: TCPStore) -> None:
        """Take what a learner sends; call it while nothing is in flight.

        Raises PolicyError (UPDATE_FAILED; ENGINE_FAILED where the engine does not come back from it).
        """
        touched = False

        async def take() -> None:
            nonlocal touched
            await self._open_group(transfer, store)
            await self._engine.start_weight_update()
            touched = self._backend not in STAGED
            await self._take_in(transfer)
            await self._finish()
            touched = True

        try:
            await self._replace(take())
            await self._close_group()
        except Exception as error:
            log.error("policy %s: version %d did not come from the learner", self._name, version, exc_info=error)
            if self.broken:
                raise self._lost() from error
            if touched:
                await self._restore()
            await self._close_group()
            raise PolicyError(
                f"policy {self._name} did not get version {version} from the learner and has version {self.version}; "
                "its log has the reason",
                reason="UPDATE_FAILED",
                infrastructure=True,
            ) from error
        self._hold(version, None)

    def close(self) -> None:
        self._engine = None
        if self.loaded is not None:
            self.loaded.release_unless(None)

    def _hold(self, version: int, weights: FetchedWeights | None) -> None:
        before, self.loaded, self.version = self.loaded, weights, version
        if before is not None:
            before.release_unless(weights)

    async def _open_group(self, transfer: WeightTransfer, store: TCPStore) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        info: dict[str, Any] = {"rank_offset": 1, "world_size": 1 + self._workers}
        if self._backend == "nccl":
            info |= {"nccl_unique_id_b64": base64.b64encode(transfer.nccl_unique_id).decode(), "packed": True}
        else:
            info |= {"master_address": transfer.address, "master_port": transfer.port, "timeout_s": transfer.timeout_s}
        await asyncio.to_thread(store.set, WORKERS, str(self._workers))
        await self._bounded(self._engine.init_weight_transfer_engine(WeightTransferInitRequest(info)), transfer)

    async def _take_in(self, transfer: WeightTransfer) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        info = {
            "names": [spec.name for spec in transfer.tensors],
            "dtype_names": [spec.dtype for spec in transfer.tensors],
            "shapes": [list(spec.shape) for spec in transfer.tensors],
        }
        await self._bounded(self._engine.update_weights(WeightTransferUpdateRequest(info)), transfer)

    async def _bounded(self, call: Coroutine[Any, Any, None], transfer: WeightTransfer) -> None:
        """A worker that hangs in a broadcast hears nothing more, not even that it should stop."""
        try:
            async with asyncio.timeout(transfer.timeout_s + _GRACE_S):
                await call
        except TimeoutError as error:
            self.broken = True
            raise self._lost() from error

    async def _finish(self) -> None:
        try:
            await self._engine.finish_weight_update()
        except Exception:
            # vLLM has no way back: it takes the update for one that is still under way.
            self.broken = True
            raise

    async def _close_group(self) -> None:
        await self._engine.shutdown_weight_transfer_engine()

    def _lost(self) -> PolicyError:
        return PolicyError(
            f"policy {self._name} has lost its weights; its server must be started again",
            reason="ENGINE_FAILED",
            infrastructure=True,
        )

    async def _restore(self) -> None:
        try:
            if self.loaded is not None:
                await self._reload(self.loaded.folder)
                return
            version, fetched = await asyncio.to_thread(self._wanted)
            await self._reload(fetched.folder)
        except Exception as error:
            # Half-loaded weights answer nonsense: the process has to go.
            self.broken = True
            log.critical("policy %s: the weights from before could not be restored", self._name, exc_info=error)
            raise self._lost() from error
        self._hold(version, fetched)

    def _wanted(self) -> tuple[int, FetchedWeights]:
        current = wanted_weights(self._root)
        if current is None:
            raise RuntimeError(f"no weights stand in {self._root} yet")
        return current.version, self.fetch(current.uri)

    async def _reload(self, folder: Path) -> None:
        await self._replace(self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)}))

    async def _replace(self, load: Coroutine[Any, Any, object]) -> None:
        """Pause, load, empty what depends on weights, go on."""
        await self._engine.pause_generation(mode="wait", clear_cache=True)
        try:
            await load
            # The workers have dropped what they computed from images; a scheduler that still counts on it would fail.
            await self._engine.reset_encoder_cache()
            await self._engine.reset_mm_cache()
            if not await self._engine.reset_prefix_cache():
                raise RuntimeError("vLLM did not empty its prefix cache")
        finally:
            # An engine that stays paused would let every later request hang.
            if not self._engine.errored and not self.broken:
                await self._engine.resume_generation()
