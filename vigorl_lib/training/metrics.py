"""Metrics of a run: one JSON record a step under `metrics/`, for the report, for people and for tests.

A run that was killed repeats some steps; the last record of a step counts. Trackers and bars are not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import TracebackType

from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter, read_segments


class MetricsWriter:
    """Appends one record a step, finite numbers only; use it in a `with` block."""

    def __init__(self, layout: RunLayout) -> None:
        self._writer = SegmentWriter(layout.storage, layout.metrics, max_records=1000)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        # JSON knows no NaN; a step whose loss is not a number is told by its absence, and by `skipped`.
        self._writer.append({"step": step, **{name: value for name, value in values.items() if math.isfinite(value)}})

    def flush(self) -> None:
        """Make what was written outlive this process; due before the step that a resumed run starts from is saved."""
        self._writer.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def read_metrics(layout: RunLayout) -> list[dict[str, float]]:
    """Records in the order of their steps, one a step."""
    records = {int(record["step"]): record for record in read_segments(layout.storage, layout.metrics)}
    return [records[step] for step in sorted(records)]


def values_of(records: Iterable[Mapping[str, float]], name: str) -> dict[int, float]:
    """Values of a metric by the steps that the weights had done when it was measured.

    A validation of GRPO belongs to weights before its record's step, by their number; all else to those after it.
    """
    number = "validation_version" if name.startswith("validation_") else "step"
    return {int(record.get(number, record["step"])): record[name] for record in records if name in record}
