"""A search tree: nodes, their statistics, and what one simulation adds. Where to search next is `select`'s concern.

A tree changes only by `Tree.open` and `Tree.simulate`, in a live search as in one that is rebuilt from
its journal (`vigorl_lib.search.journal`), so a tree that was interrupted equals one that was not. Nodes
hold prefixes, ready to be continued; rollouts are kept as trajectories without token ids, since whoever
learns from them tokenises once, with its own tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vigorl_lib.domain.trajectory import Origin, Prefix, Segment, Trajectory
from vigorl_lib.reward.base import Score


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
    """An expansion gave no usable child, or a final turn could not be scored; it is not selected again."""
    error: str = ""
    """Why the policy or the environment refused to expand it."""
    virtual_visits: int = 0
    """Visits that simulations in flight below here will bring, counted as wrong until then; no record holds them."""
    expanding: bool = False
    """A simulation in flight expands this node; no second one may."""

    @property
    def terminal(self) -> bool:
        return self.prefix.stop is not None

    @property
    def selectable(self) -> bool:
        """Whether a simulation that reaches this node can still find something to do."""
        if self.exhausted or self.terminal:
            return not self.exhausted
        return not self.children or any(child.selectable for child in self.children)

    @property
    def available(self) -> bool:
        """Whether a simulation that begins at this moment can end here or below."""
        if self.exhausted or self.expanding:
            return False
        return self.terminal or not self.children or any(child.available for child in self.children)

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

    def reserve(self, visits: int) -> None:
        """Count so many virtual visits on the way to this node; a negative number takes them back."""
        for node in self.path():
            node.virtual_visits += visits


@dataclass(frozen=True, slots=True)
class Cost:
    """What was asked of the policy: turns sampled and their tokens. A text-exact policy tells of no tokens."""

    turns: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.turns + other.turns, self.tokens + other.tokens)


NO_COST = Cost()


def cost_of(segments: Iterable[Segment]) -> Cost:
    said = [segment for segment in segments if segment.origin is Origin.POLICY]
    return Cost(len(said), sum(len(segment.token_ids or ()) for segment in said))


@dataclass(slots=True)
class Rollout:
    """A trajectory that ran through node `node`; `value` is what was propagated."""

    node: int
    trajectory: Trajectory
    value: float

    @property
    def number(self) -> int:
        """Its place among the rollouts from one node, the last part of the trajectory's id."""
        return int(self.trajectory.trajectory_id.rpartition(".")[2])

    @property
    def failed(self) -> bool:
        """It broke off, or could not be scored: it says nothing about its node and is not propagated."""
        return bool(self.trajectory.error) or self.trajectory.stop.is_error


@dataclass(slots=True)
class Tree:
    """The search for one example. `end` is empty while it is unfinished; `error` says what went wrong."""

    tree_id: str
    example_id: str
    policy: str
    nodes: list[Node] = field(default_factory=list)
    rollouts: list[Rollout] = field(default_factory=list)
    simulations: int = 0
    cost: Cost = NO_COST
    """Of all simulations, what was dropped or broke off included."""
    end: str = ""
    error: str = ""
    head: str = ""
    """Id of the journal record that led to this state."""

    @property
    def root(self) -> Node:
        return self.nodes[0]

    @property
    def solved(self) -> bool:
        return any(rollout.value >= 1.0 for rollout in self.rollouts)

    def release(self) -> None:
        """Take the nodes apart; the tree is of no use afterwards.

        Parents and children hold each other: as it is, only the collector would give the memory back, and its pauses
        last as long as an engine takes for a turn.
        """
        for node in self.nodes:
            node.children.clear()

    def open(self, prefix: Prefix) -> None:
        """Set the root."""
        self.nodes.append(Node(0, prefix, None))

    def simulate(
        self,
        leaf: Node,
        children: Sequence[Prefix],
        rollouts: Sequence[Rollout],
        error: str = "",
        cost: Cost = NO_COST,
    ) -> None:
        """Add one simulation: the children of `leaf`, the scored rollouts, and what follows for the statistics.

        Rollouts run from the children, or, in a search along single paths, from the leaf itself.
        """
        self.simulations += 1
        self.cost += cost
        for prefix in children:
            child = Node(len(self.nodes), prefix, leaf)
            self.nodes.append(child)
            leaf.children.append(child)
        if leaf.terminal:
            leaf.back_propagate(leaf.value)
        elif not children and not rollouts:
            leaf.exhausted, leaf.error = True, error
        for rollout in rollouts:
            self.rollouts.append(rollout)
            node = self.nodes[rollout.node]
            if not rollout.failed:
                node.back_propagate(rollout.value)
            elif node.terminal:
                node.exhausted = True


def bare(segment: Segment) -> Segment:
    """The segment as text alone."""
    if segment.token_ids is None and not segment.logprobs and not segment.trained:
        return segment
    return Segment(segment.origin, segment.messages, policy_version=segment.policy_version)


def finished(trajectory: Trajectory, trajectory_id: str, score: Score | None) -> Trajectory:
    """A rollout as its tree keeps it: scored, as text alone, and without its duration, so that equal searches write
    equal bytes."""
    scored: dict[str, Any] = {}
    if score is not None:
        scored = {"reward": score.total, "reward_parts": dict(score.parts), "outcome": score.outcome.value}
    segments = tuple(map(bare, trajectory.segments))
    return replace(trajectory, trajectory_id=trajectory_id, segments=segments, seconds=0.0, **scored)
