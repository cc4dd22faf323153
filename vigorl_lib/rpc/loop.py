"""How a busy program runs: on uvloop, cheaper than asyncio's own loop, and with a garbage collector that seldom walks.

uvloop does not exist on Windows; there the loop is asyncio's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

COLLECTOR = (50_000, 20, 100)
"""For `gc.set_threshold` in a busy service. Trees, and an engine's modules and tables, are many objects that live long;
by default the collector walks them so often that a good part of the CPU goes there."""

T = TypeVar("T")


def run_loop(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)
