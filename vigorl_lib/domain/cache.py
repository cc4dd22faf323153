"""A cache bounded by bytes: the one that all rooms share, whatever they keep in it.

The least recently used goes first. The newest always stays, even where it alone exceeds the bound, so
that whoever just put a thing in can rely on it; a bound of 0 keeps nothing. Safe to share among threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

V = TypeVar("V")


class ByteCache(Generic[V]):
    """Values by key, `size_of(value)` bytes each."""

    def __init__(self, max_bytes: int, size_of: Callable[[V], int]) -> None:
        self.max_bytes = max_bytes
        self._size_of = size_of
        self._values: OrderedDict[str, V] = OrderedDict()
        self._used_bytes = 0
        self._lock = Lock()

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> V | None:
        """The value, now the most recently used; None if it is not here."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: str, value: V) -> V:
        """Keep a value unless the key has one; returns the value that was given."""
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self._used_bytes += self._size_of(value)
            keep = 1 if self.max_bytes else 0
            while self._used_bytes > self.max_bytes and len(self._values) > keep:
                self._used_bytes -= self._size_of(self._values.popitem(last=False)[1])
        return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._used_bytes = 0
