"""Requests and weight updates take turns, so that no sample is ever made by two versions.

Requests pass together; an update passes alone: it waits until those inside have left, while those that come later
wait for it. This is the stated policy of an update under load: drain, load, go on. Requests that are still inside
when the drain has lasted its bound are ended, and told to come again whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vigorl_lib.errors import PolicyError


class UpdateGate:
    """For one event loop. `drain_s` is how long an update waits for requests inside before it ends them, seconds."""

    def __init__(self, policy: str, *, drain_s: float) -> None:
        self._policy = policy
        self._drain_s = drain_s
        self._changed = asyncio.Condition()
        self._inside: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def closed(self) -> bool:
        """An update waits or works."""
        return self._closed

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """A request's time with the engine. Raises PolicyError (PREEMPTED) if an update could not wait for it."""
        if self._closed:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._closed)
        request = asyncio.timeout(None)
        try:
            async with request:
                self._inside.add(request)
                try:
                    yield
                finally:
                    self._inside.discard(request)
                    if self._closed and not self._inside:
                        async with self._changed:
                            self._changed.notify_all()
        except TimeoutError as error:
            if not request.expired():
                raise
            raise PolicyError(
                f"policy {self._policy} takes new weights and has waited {self._drain_s:g} s for this request; "
                "send it again",
                reason="PREEMPTED",
                infrastructure=True,
            ) from error

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """An update's time with the engine; updates must not overlap."""
        self._closed = True
        loop = asyncio.get_running_loop()
        bound = loop.call_later(self._drain_s, self._preempt)
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: not self._inside)
            bound.cancel()
            yield
        finally:
            bound.cancel()
            self._closed = False
            async with self._changed:
                self._changed.notify_all()

    def _preempt(self) -> None:
        now = asyncio.get_running_loop().time()
        for request in self._inside:
            request.reschedule(now)
