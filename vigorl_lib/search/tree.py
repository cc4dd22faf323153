"""A search tree and its journal: nodes, statistics, and the records that rebuild them.

A tree changes only by `Tree.open` and `Tree.simulate`, in a live search as in one that is replayed
from its journal, so a tree that was interrupted equals one that was not. Nodes hold prefixes, ready
to be continued; rollouts are kept as trajectories without token ids, since whoever learns from them
tokenises once, with its own tokenizer.

Records (version 1): `root` opens a tree; `simulation` adds the children of one node with their
rollouts and values; `end` says why the search stopped.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field, replace
from typing import Any

from vigorl_lib.data.fields import Fields
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
from vigorl_lib.domain.trajectory import Prefix, Segment, StopReason, Trajectory
from vigorl_lib.storage.images import ImageStore

VERSION = 1


@dataclass(slots=True, eq=False)
class Node:
    """One prefix of the conversation. `value` is the mean reward of the rollouts through it."""

    index: int
    prefix: Prefix
    parent: Node | None
    children: list[Node] = field(default_factory=list)
    visit_count: int = 0
    value: float = 0.0
    exhausted: bool = False
    """An expansion gave no usable child; it is not selected again."""

    @property
    def terminal(self) -> bool:
        return self.prefix.stop is not None

    @property
    def selectable(self) -> bool:
        """Whether a simulation that reaches this node can still find something to do."""
        if self.terminal:
            return True
        return not self.exhausted and (not self.children or any(child.selectable for child in self.children))

    def path(self) -> list[Node]:
        """From the root to this node."""
        node: Node | None = self
        nodes = []
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def back_propagate(self, value: float) -> None:
        for node in self.path():
            node.visit_count += 1
            node.value += (value - node.value) / node.visit_count


@dataclass(slots=True)
class Rollout:
    """A scored trajectory that ran through node `node`; `value` is what was propagated."""

    node: int
    trajectory: Trajectory
    value: float


@dataclass(slots=True)
class Tree:
    """The search for one example. `end` is empty while it is unfinished."""

    tree_id: str
    example_id: str
    policy: str
    nodes: list[Node] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    simulations: int = 0
    end: str = ""
    error: str = ""

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def solved(self) -> bool:
        return any(rollout.value >= 1.0 for rollout in self.rollouts)

    def open(self, prefix: Prefix) -> None:
        """Set the root."""
        self.nodes.append(Node(0, prefix, None))

    def simulate(self, leaf: Node, children: list[Prefix], rollouts: list[Rollout]) -> None:
        """Add one simulation: the children of `leaf`, their scored rollouts, and what follows for the statistics."""
        self.simulations += 1
        for prefix in children:
            child = Node(len(self.nodes), prefix, leaf)
            self.nodes.append(child)
            leaf.children.append(child)
        if leaf.terminal:
            leaf.back_propagate(leaf.value)
        elif not children:
            leaf.exhausted = True
        for rollout in rollouts:
            self.rollouts.append(rollout)
            self.nodes[rollout.node].back_propagate(rollout.value)

    def replay(self, record: dict[str, Any], images: ImageStore | None = None) -> None:
        """Apply one journal record of this tree."""
        fields = Fields(record, f"tree {self.tree_id}")
        match fields.text("kind"):
            case "root":
                self.open(_read_prefix(fields.nested("node"), None, read_images(fields, images)))
            case "simulation":
                leaf, table = self.nodes[fields.integer("leaf")], read_images(fields, images)
                children = [_read_prefix(child, leaf.prefix, table) for child in fields.objects("children")]
                rollouts = [_read_rollout(rollout, images, self.tree_id) for rollout in fields.objects("rollouts")]
                self.simulate(leaf, children, rollouts)
            case "end":
                self.end, self.error = fields.text("reason"), fields.text("error", "")


def _read_prefix(fields: Fields, parent: Prefix | None, table: ImageTable) -> Prefix:
    return Prefix(
        parent=parent,
        new_segments=tuple(read_segment(part, table) for part in fields.objects("segments")),
        record=read_turn_record(fields.nested("turn"), table) if "turn" in fields else None,
        state=base64.b64decode(fields.text("state")),
        seed_path=tuple(fields.items("seed_path")),
        stop=StopReason(fields.text("stop")) if "stop" in fields else None,
        depth=parent.depth + 1 if parent else 0,
    )


def _read_rollout(fields: Fields, images: ImageStore | None, where: str) -> Rollout:
    trajectory = record_to_trajectory(fields.nested("trajectory").values, images, where=where)
    return Rollout(fields.integer("node"), trajectory, fields.number("value"))


def select(root: Node, c_ucb: float) -> Node:
    """The node that the next simulation works on.

    Descends to the child with the largest Q + c·sqrt(ln(N_parent + 1) / (N_child + 1)), ties to the
    first, and stops at a node without children, at a terminal one, or above a child never visited
    (UCB1 with the reference's smoothing).
    """
    node = root
    while not node.terminal and node.children:
        open_children = [child for child in node.children if child.selectable]
        log_visits = math.log(node.visit_count + 1)

        def score(child: Node, log_visits: float = log_visits) -> float:
            return child.value + c_ucb * math.sqrt(log_visits / (child.visit_count + 1))

        node = max(open_children, key=score)
    return node


def root_record(tree: Tree, prefix: Prefix) -> dict[str, Any]:
    table: ImageTable = {}
    node = node_record(prefix, table)
    return _record(tree, "root", node=node, example_id=tree.example_id, policy=tree.policy, images=write_images(table))


def simulation_record(tree: Tree, leaf: Node, children: list[Prefix], rollouts: list[Rollout]) -> dict[str, Any]:
    """A rollout names its node by the index that it has once the children are added."""
    table: ImageTable = {}
    written = [node_record(child, table) for child in children]
    scored = [{"node": r.node, "value": r.value, "trajectory": trajectory_to_record(r.trajectory)} for r in rollouts]
    return _record(tree, "simulation", leaf=leaf.index, children=written, rollouts=scored, images=write_images(table))


def end_record(tree: Tree, reason: str, error: str = "") -> dict[str, Any]:
    return _record(tree, "end", reason=reason, error=error)


def _record(tree: Tree, kind: str, **rest: Any) -> dict[str, Any]:
    return {"version": VERSION, "kind": kind, "tree": tree.tree_id, **rest}


def node_record(prefix: Prefix, table: ImageTable) -> dict[str, Any]:
    record: dict[str, Any] = {
        "segments": [write_segment(segment, table) for segment in prefix.new_segments],
        "state": base64.b64encode(prefix.state).decode(),
        "seed_path": list(prefix.seed_path),
    }
    if prefix.record is not None:
        record["turn"] = write_turn_record(prefix.record, table)
    if prefix.stop is not None:
        record["stop"] = prefix.stop.value
    return record


def without_tokens(trajectory: Trajectory) -> Trajectory:
    """The same conversation as text alone."""

    def bare(segment: Segment) -> Segment:
        return Segment(segment.origin, segment.messages, policy_version=segment.policy_version)

    return replace(trajectory, segments=tuple(bare(segment) for segment in trajectory.segments))
