"""Making the next steps' inputs while this step runs.

What was made ahead has no effect until it is taken: the position in the data is the number of steps done, so a
checkpoint needs to know nothing of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def prefetched(items: Iterator[A], make: Callable[[A], B], *, ahead: int) -> Generator[B]:
    """`make(item)` of each item in order, up to `ahead` of them begun on another thread before they are asked for.

    What `make` raises is raised where its result is due. Close the iterator to end the thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        waiting: deque[Future[B]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
