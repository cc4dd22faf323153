"""What belongs to the call that is being served: its id and its deadline.

A server's shell sets both; the log and the calls that the server makes in turn read them. Outside of
a call both are empty.
"""

from __future__ import annotations

import time
from contextvars import ContextVar

NEXT_HOP_SHARE = 0.95
"""Part of the remaining time that a call made on behalf of another one may take."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
"""On the clock of `time.monotonic`."""


def budget_s(wanted_s: float) -> float:
    """Seconds that a call to the next hop may take: what it wants, within what is left of the call being served."""
    end = deadline.get()
    return wanted_s if end is None else min(wanted_s, max(0.0, end - time.monotonic()) * NEXT_HOP_SHARE)
