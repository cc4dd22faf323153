"""A run as a list of stages that are done once: skip what is committed, do the rest, note what it cost.

A stage's record is written last, under `runs/<run id>/stages/<name>.json`; a stage without one runs
again and continues from what it finds in storage. This module measures and remembers; the stages
themselves are given as functions.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from vigorl_lib.storage.base import Storage


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What a stage cost and found. Times in seconds; CPU counts this process and its ended children."""

    name: str
    number: int
    """Place among the stages of the run."""
    wall_s: float
    cpu_s: float
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class StageRunner:
    storage: Storage
    prefix: str
    on_begin: Callable[[str, str], None]
    """Called with a stage's name and title when it really starts."""
    records: list[StageRecord] = field(default_factory=list)
    skipped: int = 0
    """Stages that an earlier process had done."""

    def run(self, name: str, title: str, work: Callable[[], dict[str, float]]) -> StageRecord:
        """Do `work` unless a record says that it was done; a stage that fails leaves no record."""
        key = f"{self.prefix}/stages/{name}.json"
        if self.storage.exists(key):
            record = StageRecord(**json.loads(self.storage.read(key)))
            self.skipped += 1
        else:
            self.on_begin(name, title)
            wall, cpu = time.monotonic(), _cpu_seconds()
            figures = work()
            record = StageRecord(name, len(self.records), time.monotonic() - wall, _cpu_seconds() - cpu, figures)
            self.storage.write(key, json.dumps(asdict(record), indent=2).encode())
        self.records.append(record)
        return record


def read_stages(storage: Storage, prefix: str) -> list[StageRecord]:
    """Records of the stages that are done, in the order in which the run does them."""
    keys = [key for key in storage.list(f"{prefix}/stages/") if key.endswith(".json")]
    return sorted((StageRecord(**json.loads(storage.read(key))) for key in keys), key=lambda record: record.number)


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
