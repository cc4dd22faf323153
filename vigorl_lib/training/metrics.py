"""Metrics of a run: one JSON record a step under `metrics/`, for the report, for people and for tests.

A run that was killed repeats some steps; the last record of a step counts. Trackers and bars are not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter, read_segments


class MetricsWriter:
    """Appends one record a step, numbers only; use it in a `with` block."""

    def __init__(self, layout: RunLayout) -> None:
        self._writer = SegmentWriter(layout.storage, layout.metrics, max_records=1000)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.append({"step": step, **values})

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
