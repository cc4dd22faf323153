"""The paper's numbers, from `paper.json` beside this package: to stand beside ours, not to be believed blindly.

The file's notes say where the paper contradicts itself. A row with a `prompt` is comparable with our cell of that
prompt.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PAPER = Path(__file__).parent.parent / "paper.json"


@dataclass(frozen=True, slots=True)
class PaperRow:
    """`accuracy` and `half_width` (of the printed 95 % interval, None where none is printed) are percent."""

    benchmark: str
    model: str
    accuracy: float
    table: str
    half_width: float | None = None
    prompt: str = ""

    @property
    def figure(self) -> str:
        """As printed, for example `86.4 ±2.7`."""
        width = "" if self.half_width is None else f" ±{_percent(self.half_width)}"
        return f"{_percent(self.accuracy)}{width}"

    def __str__(self) -> str:
        return f"{self.model} {self.figure}"


def _percent(value: float) -> str:
    """With the one or two digits that the paper prints."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:.2f}"


@lru_cache
def paper_rows(benchmark: str = "", prompt: str = "") -> tuple[PaperRow, ...]:
    """Rows of a benchmark, those of one prompt or all, in the order of the paper's tables."""
    rows = (PaperRow(**row) for row in json.loads(PAPER.read_text(encoding="utf-8"))["rows"])
    return tuple(row for row in rows if benchmark in ("", row.benchmark) and prompt in ("", row.prompt))
