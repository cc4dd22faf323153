"""What the ranks of a training run agree on: decisions of rank 0, when to stop, and why they fail.

SIGTERM on any rank stops all of them at the same place, so that the checkpoint that they save is one state. A failure
on any rank ends all of them with its cause. Gradients and parameters are the engine's business, not here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from vigorl_lib.errors import VigorlError

T = TypeVar("T")

_stop = threading.Event()
_CAUSE = "vigorl/cause"
"""Key in the process group's store of what the first rank that failed says."""


class StageStopped(VigorlError):
    """SIGTERM ended a stage between two steps; the same command continues it."""

    category = "training"
    infrastructure = True


class RankFailed(VigorlError):
    """Another rank failed, so that this one cannot go on."""

    category = "training"
    infrastructure = True


@contextmanager
def failing_together() -> Iterator[None]:
    """A rank that fails tells the others why, and they end with that instead of with a broken connection.

    To be left before the process group is. Raises RankFailed (RANK_FAILED) on the others.
    """
    try:
        yield
    except StageStopped:
        raise
    except VigorlError as error:
        _tell(error, f"{error.reason}: {error.message}")
        raise
    except Exception as error:
        if not _lost_a_rank(error):
            _tell(error, f"{type(error).__name__}: {error}")
            raise
        raise RankFailed(
            _told() or "another rank is gone without a word; it was killed, or its machine is gone",
            reason="RANK_FAILED",
        ) from error


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """SIGTERM is noted, for `raise_if_stopped`, instead of ending the process. Only the main thread can arrange it.

    Before and after, while ranks find each other or part, it ends a process at once: there is nothing to save, and a
    rank that waits for one that is gone would not notice.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _stop.clear()
    before = signal.signal(signal.SIGTERM, lambda *_: _stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def raise_if_stopped() -> None:
    """Raises StageStopped (STOPPED) on every rank if one of them was told to stop. Every rank makes every call."""
    if any(gathered(_stop.is_set())):
        raise StageStopped("stopped by SIGTERM; the same command continues", reason="STOPPED")


def from_first(value: T) -> T:
    """Rank 0's value on every rank; what the others hand in is ignored. Every rank makes every call."""
    if torch.distributed.get_world_size() == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def gathered(value: T) -> list[T]:
    """Every rank's value, by rank, on every rank. Every rank makes every call."""
    world = torch.distributed.get_world_size()
    if world == 1:
        return [value]
    values: list[T] = [value] * world
    torch.distributed.all_gather_object(values, value)
    return values


def _lost_a_rank(error: Exception) -> bool:
    """Whether a collective failed because of a rank that is not there any more."""
    # NCCL has a class of error for it, gloo has none.
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _tell(error: BaseException, cause: str) -> None:
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    get_error_handler().record_exception(error)  # For the summary with which torchrun ends.
    if torch.distributed.get_world_size() > 1:
        # Without torchrun the store is a part of rank 0, and gone with it.
        with suppress(torch.distributed.DistError):
            _store().compare_set(_CAUSE, "", f"rank {torch.distributed.get_rank()} failed: {cause}")


def _told() -> str:
    with suppress(torch.distributed.DistError):
        if _store().check([_CAUSE]):
            cause: bytes = _store().get(_CAUSE)
            return cause.decode()
    return ""


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()
