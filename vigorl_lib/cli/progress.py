"""Progress for people and for logs: a bar on a terminal, one JSON line every few seconds otherwise.

A reporter takes (done, total, failed) and shows rate and time left. It never decides anything.
"""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType

LOG_EVERY_S = 5.0
"""Seconds between two JSON records when the output is not a terminal."""


class Progress:
    """Context manager around one long piece of work named `what`."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._begin = time.monotonic()
        self._last_log = 0.0
        self._resumed: int | None = None
        self._terminal = sys.stderr.isatty()
        self._last: tuple[int, int, int, str] = (0, 0, 0, "")

    def __enter__(self) -> Progress:
        return self

    def __call__(self, done: int, total: int, *, failed: int = 0, resumed: int = 0, note: str = "") -> None:
        """`resumed` of those done were done by an earlier process; the rate does not count them."""
        if self._resumed is None:
            self._resumed = resumed
        self._last = (done, total, failed, note)
        now = time.monotonic()
        if now - self._last_log < (0.1 if self._terminal else LOG_EVERY_S) and done < total:
            return
        self._last_log = now
        self._show()

    def _rate(self) -> float:
        done = self._last[0] - (self._resumed or 0)
        return done / max(1e-9, time.monotonic() - self._begin)

    def _show(self) -> None:
        done, total, failed, note = self._last
        rate = self._rate()
        eta_s = (total - done) / rate if rate > 0 and total else 0.0
        if not self._terminal:
            record = {"progress": self.what, "done": done, "total": total, "failed": failed}
            record |= {"per_s": round(rate, 2), "eta_s": round(eta_s, 1)} | ({"note": note} if note else {})
            sys.stderr.write(json.dumps(record) + "\n")
            return
        width = 24
        filled = int(width * done / total) if total else 0
        bar = "█" * filled + "░" * (width - filled)
        tail = f"  {failed} failed" if failed else ""
        line = f"{self.what:<22} {bar} {done}/{total}  {rate:,.1f}/s  {_clock(eta_s)} left{tail}  {note}"
        sys.stderr.write("\r\x1b[2K" + line[:160])
        sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._resumed is not None and self._terminal:
            self._show()
            sys.stderr.write("\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
