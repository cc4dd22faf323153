"""Requests and weight updates take turns, so that no sample is ever made by two versions.

Requests pass together; an update passes alone: it waits until those inside have left, while those that come later
wait for it. This is the stated policy of an update under load: drain, load, go on; nothing is aborted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class UpdateGate:
    """For one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """An update waits or works."""
        return self._closed

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """A request's time with the engine."""
        if self._closed:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._closed)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if self._closed and not self._inside:
                async with self._changed:
                    self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """An update's time with the engine; updates must not overlap."""
        self._closed = True
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._inside)
            yield
        finally:
            self._closed = False
            async with self._changed:
                self._changed.notify_all()
