"""From work that reports by a callback to a stream that a server yields."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def events_of(work: Callable[[Callable[[T], None]], Awaitable[T]]) -> AsyncGenerator[T]:
    """What `work` reports to the function that it gets, as it happens, then its result.

    Raises what it raises. Closing the stream, as a client that goes away does, cancels the work.
    """
    queue: asyncio.Queue[T | None] = asyncio.Queue()

    async def run() -> T:
        try:
            return await work(queue.put_nowait)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (event := await queue.get()) is not None:
            yield event
        yield await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
