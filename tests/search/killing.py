"""A search that kills its own process at a point that is asked for. Not a test: a program that tests start.

`python -m tests.search.killing ROOT` reads cases from stdin, one JSON object a line, and answers each with a line:
it forks a process that searches under `ROOT/<case>` and dies there by SIGKILL, then forks others that go on until
one comes to its end. Forking a process that has imported everything once makes a case a fraction of a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.search.support import WrittenPolicy, example, searching
from tests.search.test_coordinator import CONFIG, written
from vigorl_lib.rpc.loop import run_loop
from vigorl_lib.search import archive, coordinator
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.search.shards import Shard
from vigorl_lib.storage import segments
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter, read_segments

EXAMPLES = [example(f"e{k}") for k in range(4)]
RUN = "run"
RECORDS_PER_SEGMENT = 4
"""So that many segments close in a small search."""

POINTS: dict[str, tuple[Any, str]] = {
    "claim": (segments._OpenFile, "begin"),
    "append": (segments._OpenFile, "add"),
    "close": (segments, "_write_closed"),
    "unlink": (segments._OpenFile, "end"),
    "adopt": (segments, "_adopt_orphans"),
    "crop": (ImageStore, "put"),
    "ended": (archive, "end_shard"),
    "archive": (archive, "archive_run"),
}
"""What is durable once the call came back."""


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(point: str, when: str, occurrence: int) -> None:
    """Arrange for this process to die before, in or after the given call of a point."""
    owner, name = POINTS[point]
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        # Other threads may come in before this call is back.
        chosen = calls == occurrence
        if chosen and when == "before":
            die()
        if chosen and when == "torn":
            opened, line = args
            opened._file.write(line[: len(line) // 2])
            die()
        result = whole(*args, **kwargs)
        if chosen and when == "after":
            die()
        return result

    setattr(owner, name, deadly)


def search(storage: Storage, pause_s: float) -> None:
    """One call of the search service for a data set that is one shard."""
    setattr(coordinator, "SegmentWriter", partial(SegmentWriter, max_records=RECORDS_PER_SEGMENT))  # noqa: B010
    layout, shard = RunLayout(storage, RUN), Shard()
    policy = WrittenPolicy(written, (lambda: asyncio.sleep(pause_s)) if pause_s else None)
    config = CONFIG.model_copy(update={"simulations": 2})
    outfit = searching(policy, config, images=ImageStore(storage))
    work = search_dataset(
        EXAMPLES,
        outfit,
        policy="written",
        storage=storage,
        prefix=layout.search(shard.index),
        on_progress=lambda _: None,
    )
    run_loop(work)
    archive.end_shard(layout, shard)


def forked(work: Callable[[], None]) -> int:
    """The process id of a child that does the work and exits 0, or 1 after an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def killed(case: dict[str, Any], uri: str) -> int:
    """How a process of this case ended, as `os.waitpid` tells it."""

    def work() -> None:
        if "point" in case:
            kill_at(case["point"], case["when"], case["occurrence"])
        search(open_storage(uri), case.get("pause_s", 0.0))

    child = forked(work)
    if "after_s" in case:
        time.sleep(case["after_s"])
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def played(case: dict[str, Any], uri: str) -> dict[str, Any]:
    """Kill `case["times"]` processes one after the other, then let one come to its end."""

    def fill() -> None:
        store = ImageStore(open_storage(uri))
        for one in EXAMPLES:
            store.put(one.images[0].data or b"")

    os.waitpid(forked(fill), 0)
    deaths = [killed(case, uri) for _ in range(case.get("times", 1))]
    kept = len(list(read_segments(open_storage(uri), RunLayout(open_storage(uri), RUN).search())))
    _, status = os.waitpid(forked(lambda: search(open_storage(uri), 0.0)), 0)
    return {"deaths": deaths, "kept": kept, "status": status}


def main() -> None:
    root = sys.argv[1]
    for number, line in enumerate(sys.stdin):
        print(json.dumps(played(json.loads(line), f"{root}/{number:04d}")), flush=True)


if __name__ == "__main__":
    main()
