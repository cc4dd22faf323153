"""Many trees at once: bounded, journalled, resumable.

All trees share one event loop; the policy's batching does the rest. The journal is the data set's only
state: called again with the same prefix, finished trees are skipped and an unfinished one goes on after
its last journalled simulation. A tree that fails is recorded with its reason and harms no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from vigorl_lib.domain.example import Example
from vigorl_lib.rollout.run import rollout_many
from vigorl_lib.search.journal import Record, read_trees
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter


@dataclass(frozen=True, slots=True)
class SearchProgress:
    """How far a data set is; `resumed` trees were finished before this call."""

    done: int
    total: int
    failed: int
    solved: int
    resumed: int
    seconds: float


async def search_dataset(
    examples: Sequence[Example],
    search: TreeSearch,
    *,
    policy: str,
    storage: Storage,
    prefix: str,
    on_progress: Callable[[SearchProgress], None],
) -> SearchProgress:
    """Search every example that the journal under `prefix` does not hold finished; progress after each tree."""
    begin = time.monotonic()
    # The writer first: it closes what a killed process left open.
    writer = await asyncio.to_thread(SegmentWriter, storage, prefix)
    standing = await asyncio.to_thread(_standing, storage, prefix)
    here = [standing.ended[e.example_id] for e in examples if e.example_id in standing.ended]
    done = resumed = len(here)
    failed, solved = sum(tree.failed for tree in here), sum(tree.solved for tree in here)

    async def journal(record: Record) -> None:
        await asyncio.to_thread(writer.append, record)

    def tree_of(example: Example) -> Tree:
        begun = standing.begun.get(example.example_id)
        return begun or Tree(f"{prefix}/{example.example_id}", example.example_id, policy)

    jobs = (
        partial(search.search, example, tree_of(example), journal)
        for example in examples
        if example.example_id not in standing.ended
    )
    try:
        async with aclosing(rollout_many(jobs, max_in_flight=search.config.trees_in_flight)) as finished:
            async for tree in finished:
                done, failed, solved = done + 1, failed + bool(tree.error), solved + tree.solved
                on_progress(SearchProgress(done, len(examples), failed, solved, resumed, time.monotonic() - begin))
    finally:
        await asyncio.to_thread(writer.close)
    return SearchProgress(done, len(examples), failed, solved, resumed, time.monotonic() - begin)


@dataclass(frozen=True, slots=True)
class _Ended:
    failed: bool
    solved: bool


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the journal holds, by example id; of finished trees no more than how they ended."""

    ended: dict[str, _Ended]
    begun: dict[str, Tree]


def _standing(storage: Storage, prefix: str) -> _Standing:
    ended: dict[str, _Ended] = {}
    begun: set[str] = set()
    for tree in read_trees(storage, prefix):
        if tree.end:
            ended[tree.example_id] = _Ended(bool(tree.error), tree.solved)
        else:
            begun.add(tree.tree_id)
    if not begun:
        return _Standing(ended, {})
    # Only a tree that goes on needs its pictures.
    images = ImageStore(storage)
    return _Standing(ended, {t.example_id: t for t in read_trees(storage, prefix, images, only=begun)})
