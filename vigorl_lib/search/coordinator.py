"""Many trees at once: bounded, journalled, resumable.

All trees share one event loop; the policy's batching does the rest. The journal is the data set's only
state: called again with the same prefix, finished trees are skipped and an unfinished one goes on after
its last journalled simulation. A tree that fails is recorded with its reason and harms no other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.example import Example
from vigorl_lib.rollout.run import rollout_many
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter, read_segments


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
    """Search every example that the journal under `prefix` does not hold finished."""
    begin = time.monotonic()
    images = ImageStore(storage)
    trees = {tree.example_id: tree for tree in read_trees(storage, prefix, images)}
    finished = [trees[e.example_id] for e in examples if e.example_id in trees and trees[e.example_id].end]
    failed, solved = sum(bool(t.error) for t in finished), sum(t.solved for t in finished)
    resumed = done = len(finished)
    skip = {tree.example_id for tree in finished}

    def progress() -> SearchProgress:
        return SearchProgress(done, len(examples), failed, solved, resumed, time.monotonic() - begin)

    with SegmentWriter(storage, prefix) as writer:
        jobs = (
            partial(
                search.search,
                example,
                trees.get(example.example_id) or Tree(f"{prefix}/{example.example_id}", example.example_id, policy),
                writer.append,
            )
            for example in examples
            if example.example_id not in skip
        )
        async for tree in rollout_many(jobs, max_in_flight=search.config.trees_in_flight):
            done, failed, solved = done + 1, failed + bool(tree.error), solved + tree.solved
            on_progress(progress())
    return progress()


def read_trees(storage: Storage, prefix: str, images: ImageStore | None = None) -> Iterator[Tree]:
    """Trees of a journal in the order in which they were begun, unfinished ones included."""
    trees: dict[str, Tree] = {}
    for record in read_segments(storage, prefix):
        fields = Fields(record, prefix)
        name = fields.text("tree")
        if fields.text("kind") == "root":
            trees[name] = Tree(name, fields.text("example_id"), fields.text("policy"))
        if name in trees:
            trees[name].replay(record, images)
    yield from trees.values()
