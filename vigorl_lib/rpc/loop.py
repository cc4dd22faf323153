"""How a busy program runs: on uvloop, cheaper than asyncio's own loop, as a batch job to the scheduler, and with a
garbage collector that seldom walks.

uvloop and the batch class do not exist everywhere; without them the loop is asyncio's and the class the usual one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

COLLECTOR = (50_000, 20, 100)
"""For `gc.set_threshold` in a busy service. Trees, and an engine's modules and tables, are many objects that live long;
by default the collector walks them so often that a good part of the CPU goes there."""

T = TypeVar("T")


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    _run_as_batch()
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


def _run_as_batch() -> None:
    """Never interrupt another process just because a message came: this thread, and what it starts from here on.

    A service wakes up many times a second. Each time, Linux would take a core from an engine that computes on it, and
    both would go on with cold caches; on a machine with an idle core nothing changes.
    """
    if hasattr(os, "SCHED_BATCH"):
        # Some sandboxes forbid it, or do not know it.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
