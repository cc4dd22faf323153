"""The journal of a search: one record per event of a tree, from which the tree is rebuilt without asking a policy.

Records (version 3): `root` opens a tree; `simulation` adds the children of one node with their rollouts
and values; `end` says why the search stopped. Each has an `id` made from its content, and `previous`, the id
of the record that its tree had reached. A reader follows that chain, so of two writers that went on with
the same tree (a pod that was given up and came back) the one that is read first counts, whole. Where records lie is
`vigorl_lib.storage.segments`'s concern.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vigorl_lib.data.fields import Fields
from vigorl_lib.data.records import check_version
from vigorl_lib.data.trajectory_records import (
    ImageTable,
    read_images,
    read_segment,
    read_turn_record,
    record_to_trajectory,
    trajectory_to_record,
    write_images,
    write_segment,
    write_turn_record,
)
from vigorl_lib.domain.trajectory import Prefix, Segment, StopReason, TurnRecord
from vigorl_lib.search.tree import NO_COST, Cost, Node, Rollout, Tree, bare
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import json_line, read_segments

VERSION = 3
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it is written: one line of JSON, serialised once, for its id and for the file."""

    id: str
    line: str


logger = logging.getLogger(__name__)


def root_record(tree: Tree, prefix: Prefix) -> Entry:
    table: ImageTable = {}
    node = write_prefix(prefix, table)
    return _record(tree, "root", example_id=tree.example_id, policy=tree.policy, node=node, images=write_images(table))


def simulation_record(
    tree: Tree,
    leaf: Node,
    children: Sequence[Prefix],
    rollouts: Sequence[Rollout],
    error: str = "",
    cost: Cost = NO_COST,
) -> Entry:
    """A rollout names its node by the index that it has once the children are added."""
    table: ImageTable = {}
    written = [write_prefix(child, table) for child in children]
    failure = {"error": error} if error else {}
    return _record(
        tree,
        "simulation",
        leaf=leaf.index,
        children=written,
        rollouts=write_rollouts(rollouts, Paths(tree, children)),
        cost=write_cost(cost),
        images=write_images(table),
        **failure,
    )


def end_record(tree: Tree, reason: str, error: str = "") -> Entry:
    """A tree that ends before it has a root says here whose it is."""
    whose = {} if tree.nodes else {"example_id": tree.example_id, "policy": tree.policy}
    return _record(tree, "end", reason=reason, error=error, **whose)


def read_trees(
    storage: Storage, prefix: str, images: ImageStore | None = None, *, only: Collection[str] | None = None
) -> Iterator[Tree]:
    """Finished trees in the order of their ends, then the unfinished ones; none is held once it was given out.

    `only` names the trees to read; with `images` their pictures have bytes, as a search needs that goes on.
    Raises DataError (RECORD_INVALID, RECORD_TOO_NEW), CorruptObject.
    """
    unfinished: dict[str, Tree] = {}
    finished: set[str] = set()
    duplicates = 0
    for record in read_segments(storage, prefix):
        fields = Fields(record, prefix)
        check_version(fields, VERSION)
        name = fields.text("tree")
        if only is not None and name not in only:
            continue
        if name not in unfinished and name not in finished and "example_id" in fields:
            unfinished[name] = Tree(name, fields.text("example_id"), fields.text("policy"))
        tree = unfinished.get(name)
        if tree is None or fields.text("previous") != tree.head:
            duplicates += 1
            continue
        _apply(tree, fields, images)
        if tree.end:
            finished.add(name)
            yield unfinished.pop(name)
    if duplicates:
        logger.warning("%s: %d records of trees that another writer was ahead with were skipped", prefix, duplicates)
    yield from unfinished.values()


def _apply(tree: Tree, fields: Fields, images: ImageStore | None) -> None:
    match fields.text("kind"):
        case "root":
            tree.open(read_prefix(fields.nested("node"), None, read_images(fields, images)))
        case "simulation":
            index, table = fields.integer("leaf"), read_images(fields, images)
            if not 0 <= index < len(tree.nodes):
                raise fields.error(f"leaf: expected one of {len(tree.nodes)} nodes, found {index}")
            leaf = tree.nodes[index]
            children = [read_prefix(child, leaf.prefix, table) for child in fields.objects("children")]
            rollouts = read_rollouts(fields, Paths(tree, children), images)
            tree.simulate(leaf, children, rollouts, fields.text("error", ""), read_cost(fields))
        case "end":
            tree.end, tree.error = fields.text("reason"), fields.text("error", "")
        case other:
            raise fields.error(f"kind: expected root, simulation or end, found {other!r}")
    tree.head = fields.text("id")


def _record(tree: Tree, kind: str, **rest: Any) -> Entry:
    record = {"version": VERSION, "kind": kind, "tree": tree.tree_id, "previous": tree.head, **rest}
    text = json_line(record, tree.tree_id)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Entry(name, f'{text[:-1]},"id":"{name}"}}')


def write_prefix(prefix: Prefix, table: ImageTable) -> Record:
    """A prefix without its past; its images are added to the table."""
    record: Record = {
        "segments": [write_segment(segment, table) for segment in prefix.new_segments],
        "state": base64.b64encode(prefix.state).decode(),
        "seed_path": list(prefix.seed_path),
    }
    if prefix.record is not None:
        record["turn"] = write_turn_record(prefix.record, table)
    if prefix.stop is not None:
        record["stop"] = prefix.stop.value
    return record


def read_prefix(fields: Fields, parent: Prefix | None, table: ImageTable) -> Prefix:
    return Prefix(
        parent=parent,
        new_segments=tuple(read_segment(part, table) for part in fields.objects("segments")),
        record=read_turn_record(fields.nested("turn"), table) if "turn" in fields else None,
        state=base64.b64decode(fields.text("state")),
        seed_path=tuple(fields.items("seed_path")),
        stop=StopReason(fields.text("stop")) if "stop" in fields else None,
        depth=parent.depth + 1 if parent else 0,
    )


def write_cost(cost: Cost) -> Record:
    return {"turns": cost.turns, "tokens": cost.tokens}


def read_cost(fields: Fields) -> Cost:
    if "cost" not in fields:
        return NO_COST
    cost = fields.nested("cost")
    return Cost(cost.integer("turns"), cost.integer("tokens"))


class Paths:
    """What rollouts from a node begin with: its segments as text alone, and its turns, worked out once a node."""

    def __init__(self, tree: Tree, children: Sequence[Prefix] = ()) -> None:
        """`children` are the nodes that come after those of the tree."""
        self._tree = tree
        self._children = children
        self._known: dict[int, tuple[tuple[Segment, ...], tuple[TurnRecord, ...]]] = {}

    def __len__(self) -> int:
        return len(self._tree.nodes) + len(self._children)

    def __getitem__(self, node: int) -> tuple[tuple[Segment, ...], tuple[TurnRecord, ...]]:
        path = self._known.get(node)
        if path is None:
            nodes = self._tree.nodes
            prefix = nodes[node].prefix if node < len(nodes) else self._children[node - len(nodes)]
            path = self._known[node] = (tuple(map(bare, prefix.segments)), prefix.turns)
        return path


def write_rollouts(rollouts: Sequence[Rollout], paths: Paths) -> list[Record]:
    """Rollouts without what their node says already: the prompt is long, and each of hundreds begins with it.

    `opening` and `opening_turns` in the record count the segments and turns left out; a conversation that begins in
    another way than its node is written whole.
    """

    def write(rollout: Rollout) -> Record:
        trajectory, (segments, turns) = rollout.trajectory, paths[rollout.node]
        opening = (len(segments), len(turns))
        if trajectory.segments[: opening[0]] != segments or trajectory.turns[: opening[1]] != turns:
            opening = (0, 0)
        return {
            "node": rollout.node,
            "value": rollout.value,
            "opening": opening[0],
            "opening_turns": opening[1],
            "trajectory": trajectory_to_record(trajectory, leave_out=opening),
        }

    return list(map(write, rollouts))


def read_rollouts(fields: Fields, paths: Paths, images: ImageStore | None) -> list[Rollout]:
    """The rollouts of a record."""

    def read(fields: Fields) -> Rollout:
        node = fields.integer("node")
        if not 0 <= node < len(paths):
            raise fields.error(f"node: expected one of {len(paths)} nodes, found {node}")
        segments, turns = paths[node]
        opening, opening_turns = (fields.integer(name, 0) for name in ("opening", "opening_turns"))
        # Version 2 left out the segments of the root alone.
        if (opening, opening_turns) not in ((0, 0), (len(segments), len(turns)), (len(paths[0][0]), 0)):
            raise fields.error(
                f"opening: expected none or the {len(segments)} segments and {len(turns)} turns of node {node}, "
                f"found {opening} and {opening_turns}"
            )
        rest = record_to_trajectory(fields.nested("trajectory").values, images, where=fields.where)
        whole = replace(
            rest, segments=(*segments[:opening], *rest.segments), turns=(*turns[:opening_turns], *rest.turns)
        )
        return Rollout(node, whole, fields.number("value"))

    return list(map(read, fields.objects("rollouts")))
