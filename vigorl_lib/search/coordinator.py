"""Many trees at once: bounded, journalled, resumable.

All trees share one event loop; the policy's batching does the rest. The journal is the data set's only
state: called again with the same prefix, finished trees are skipped and an unfinished one goes on after
its last journalled simulation. A tree that fails is recorded with its reason and harms no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from vigorl_lib.domain.example import Example
from vigorl_lib.rollout.run import rollout_many
from vigorl_lib.search.journal import Entry, read_trees
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a data set is; `resumed` trees were finished before this call.

    `failures` counts the failed trees, and `broken_rollouts` the rollouts of this call's trees that broke off, by the
    reason of the error.
    """

    done: int
    total: int
    failed: int
    solved: int
    resumed: int
    seconds: float
    failures: Mapping[str, int] = field(default_factory=dict)
    broken_rollouts: Mapping[str, int] = field(default_factory=dict)

    @property
    def trees_per_s(self) -> float:
        """Of this call."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Time left at this rate; None until the first tree is done."""
        return (self.total - self.done) / self.trees_per_s if self.done > self.resumed else None


class _Tally:
    """Counts trees as they end."""

    def __init__(self, total: int) -> None:
        self._begin = time.monotonic()
        self._total = total
        self._done = self._solved = self._resumed = 0
        self._failures: Counter[str] = Counter()
        self._broken: Counter[str] = Counter()

    def resume(self, ended: _Ended) -> None:
        self._done += 1
        self._resumed += 1
        self._solved += ended.solved
        self._failures.update([reason_of(ended.error)] if ended.error else [])

    def add(self, tree: Tree) -> None:
        self._done += 1
        self._solved += tree.solved
        self._failures.update([reason_of(tree.error)] if tree.error else [])
        self._broken.update(reason_of(r.trajectory.error) for r in tree.rollouts if r.trajectory.error)

    def progress(self) -> SearchProgress:
        failed = sum(self._failures.values())
        counts = (self._done, self._total, failed, self._solved, self._resumed)
        return SearchProgress(*counts, time.monotonic() - self._begin, dict(self._failures), dict(self._broken))


def reason_of(error: str) -> str:
    """The class of a recorded error, which reads `REASON: message`."""
    return error.partition(":")[0]


async def search_dataset(
    examples: Sequence[Example],
    search: TreeSearch,
    *,
    policy: str,
    storage: Storage,
    prefix: str,
    on_progress: Callable[[SearchProgress], None],
    others: Sequence[str] = (),
) -> SearchProgress:
    """Search every example that the journal under `prefix` does not hold finished; progress after each tree.

    Nor is an example searched that a journal under one of the prefixes `others` holds finished. Cancelling it
    cancels what is in flight and keeps what is journalled.
    """
    tally = _Tally(len(examples))
    # The writer first: it closes what a killed process left open.
    journal = BatchedJournal(await asyncio.to_thread(SegmentWriter, storage, prefix))
    try:
        standing = await asyncio.to_thread(_standing, storage, prefix, others)
        for example in examples:
            if example.example_id in standing.ended:
                tally.resume(standing.ended[example.example_id])

        def tree_of(example: Example) -> Tree:
            # Handed over, not shared: a tree that is done must not stay in memory.
            begun = standing.begun.pop(example.example_id, None)
            return begun or Tree(f"{prefix}/{example.example_id}", example.example_id, policy)

        jobs = (
            partial(search.search, example, tree_of(example), journal)
            for example in examples
            if example.example_id not in standing.ended
        )
        async with aclosing(rollout_many(jobs, max_in_flight=search.config.trees_in_flight)) as finished:
            async for tree in finished:
                tally.add(tree)
                tree.release()
                on_progress(tally.progress())
    finally:
        await journal.close()
    return tally.progress()


class BatchedJournal:
    """Makes records durable in a thread. What comes while one write is under way goes together into the next; whether
    a record could be written is told to its own tree alone."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, entry: Entry) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry.line, written))
        if self._task is None:
            self._task = asyncio.create_task(self._write())
        await written

    async def close(self) -> None:
        """Write what still waits, and close the segment."""
        if self._task is not None:
            await asyncio.wait([self._task])
        await asyncio.to_thread(self._writer.close)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failures = await asyncio.to_thread(self._append, [line for line, _ in batch])
            for (_, written), failure in zip(batch, failures, strict=True):
                if written.done():
                    # Whoever waited for it was cancelled.
                    continue
                if failure is None:
                    written.set_result(None)
                else:
                    written.set_exception(failure)
        self._task = None

    def _append(self, lines: Sequence[str]) -> list[Exception | None]:
        failures: list[Exception | None] = []
        for line in lines:
            try:
                self._writer.append_line(line)
                failures.append(None)
            except Exception as error:  # noqa: BLE001 - raised where the record came from
                failures.append(error)
        return failures


@dataclass(frozen=True, slots=True)
class _Ended:
    error: str
    solved: bool


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the journal holds, by example id; of finished trees no more than how they ended."""

    ended: dict[str, _Ended]
    begun: dict[str, Tree]


def _standing(storage: Storage, prefix: str, others: Sequence[str]) -> _Standing:
    ended: dict[str, _Ended] = {}
    for other in others:
        ended |= {tree.example_id: _Ended(tree.error, tree.solved) for tree in read_trees(storage, other) if tree.end}
    begun: set[str] = set()
    for tree in read_trees(storage, prefix):
        if tree.end:
            ended[tree.example_id] = _Ended(tree.error, tree.solved)
        else:
            begun.add(tree.tree_id)
    if not begun:
        return _Standing(ended, {})
    # Only a tree that goes on needs its pictures.
    images = ImageStore(storage)
    return _Standing(ended, {t.example_id: t for t in read_trees(storage, prefix, images, only=begun)})
