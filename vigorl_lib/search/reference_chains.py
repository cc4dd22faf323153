"""Chains exactly as the published code's builder makes them of the same trees, for comparison.

Single-turn only, from every node whose own rollouts ended right: each right rollout is a direct chain, and each
pair of a wrong and a right one from the same node a corrected one, in which the shared beginning stands twice. There
are no filters and no caps but one. Its traits that look like mistakes are kept: the thought of the turn that
answers is dropped, and whatever comes last in a rollout counts as its answer. Two of its choices hang on chance
and are fixed here: trees are taken in the order given (there: of a folder's listing), and the texts of a tree in the
order in which they are found (there: of a set of strings).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vigorl_lib.domain.grammar import SINGLE_TURN, Answer, parse_turn
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, Trajectory, TurnRecord
from vigorl_lib.domain.wire import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    BACKTRACK_PHRASE,
    IMAGE_PLACEHOLDER,
    THINK_CLOSE,
    THINK_OPEN,
)
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.tree import Node, Rollout, Tree

MAX_CHAINS_PER_TREE = 10_000


@dataclass(frozen=True, slots=True)
class _Text:
    """What the builder writes of one chain; the right rollout gives it prompt, answer and reward."""

    kind: str
    text: str
    source: Trajectory


def reference_chains(
    trees: Sequence[Tree], prompt: Prompt, validation_share: float, seed: int
) -> tuple[list[Trajectory], list[Trajectory]]:
    """Chains for training, and those of the last share of the trees for validation."""
    border = int(len(trees) * (1 - validation_share))
    train, validation = (
        [_chain(tree, number, made, prompt) for tree in part for number, made in enumerate(_texts(tree, seed))]
        for part in (trees[:border], trees[border:])
    )
    return train, validation


def _texts(tree: Tree, seed: int) -> list[_Text]:
    """The chains of one tree, no text twice."""
    rollouts: dict[int, list[Rollout]] = {}
    for rollout in tree.rollouts:
        if not rollout.failed:
            rollouts.setdefault(rollout.node, []).append(rollout)
    by_text: dict[str, _Text] = {}
    for node in _visit(tree.root):
        for made in _of_node(rollouts.get(node.index, ())):
            by_text.setdefault(made.text, made)
    found = list(by_text.values())
    if len(found) > MAX_CHAINS_PER_TREE:
        found = random.Random(derive_seed(seed, "reference", tree.example_id)).sample(found, MAX_CHAINS_PER_TREE)
    return found


def _visit(node: Node) -> Iterator[Node]:
    """A node before its children; a final one's children, if it had any, are not looked at."""
    yield node
    if not node.terminal:
        for child in node.children:
            yield from _visit(child)


def _of_node(rollouts: Sequence[Rollout]) -> Iterator[_Text]:
    right = [rollout.trajectory for rollout in rollouts if rollout.value >= 1.0]
    wrong = [rollout.trajectory for rollout in rollouts if rollout.value < 1.0]
    for bad in wrong:
        for good in right:
            yield _wrapped("corrected", f"{_thoughts(bad)}\n{BACKTRACK_PHRASE}\n{_thoughts(good)}", good)
    for good in right:
        yield _wrapped("direct", _thoughts(good), good)


def _thoughts(trajectory: Trajectory) -> str:
    """All but the last turn: that one is the answer, or stands where it should."""
    return " ".join(record.turn.thought.strip() for record in trajectory.turns[:-1])


def _wrapped(kind: str, chain: str, source: Trajectory) -> _Text:
    last = source.turns[-1].turn
    answer = last.action.text.strip() if isinstance(last.action, Answer) else last.thought.strip()
    chain = chain.replace(IMAGE_PLACEHOLDER, "")
    text = f"{THINK_OPEN}\n{chain}\n{THINK_CLOSE}\n{ANSWER_OPEN} {answer} {ANSWER_CLOSE}"
    return _Text(kind, text, source)


def _chain(tree: Tree, number: int, made: _Text, prompt: Prompt) -> Trajectory:
    question = made.source.segments[0].messages[-1]
    opening = Segment(Origin.PROMPT, (Message(Role.SYSTEM, (prompt.text,)), question))
    said = Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (made.text,)),), trained=True)
    record = TurnRecord(parse_turn(made.text, SINGLE_TURN), made.text, made.source.turns[-1].finish_reason)
    return replace(
        made.source,
        trajectory_id=f"{tree.tree_id}/{made.kind}.{number}",
        mode=SINGLE_TURN.name,
        segments=(opening, said),
        turns=(record,),
    )
