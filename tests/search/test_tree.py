from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.trajectory import Prefix, StopReason, Trajectory
from vigorl_lib.search.select import select
from vigorl_lib.search.tree import Rollout, Tree


def prefix(parent: Prefix | None, stop: StopReason | None = None) -> Prefix:
    return Prefix(parent, (), None, b"", (), stop, 0 if parent is None else parent.depth + 1)


def rollout(node: int, value: float, *, error: str = "") -> Rollout:
    return Rollout(node, Trajectory("t", "e", "multi_turn", "p", (), (), StopReason.ANSWERED, error=error), value)


def opened() -> Tree:
    tree = Tree("t", "e", "p")
    tree.open(prefix(None))
    return tree


def add(tree: Tree, leaf: int, values: list[list[float]], *, stop: StopReason | None = None) -> None:
    node, first = tree.nodes[leaf], len(tree.nodes)
    rollouts = [rollout(first + k, value) for k, group in enumerate(values) for value in group]
    tree.simulate(node, [prefix(node.prefix, stop) for _ in values], rollouts)


def chosen(tree: Tree, exploration: float, selection: str = "ucb") -> int:
    node = select(tree.root, selection, exploration)
    assert node is not None
    return node.index


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.lists(st.sampled_from([0.0, 1.0]), max_size=3), max_size=3)))
)
def test_visits_and_values_are_what_a_recount_of_all_rollouts_gives(moves: list[tuple[int, list[list[float]]]]) -> None:
    tree = opened()
    for place, values in moves:
        leaves = [node.index for node in tree.nodes if not node.children]
        add(tree, leaves[place % len(leaves)], values)
    for node in tree.nodes:
        below = [r.value for r in tree.rollouts if node in tree.nodes[r.node].path()]
        assert node.visit_count == len(below)
        assert abs(node.value - (fmean(below) if below else 0.0)) < 1e-9
    assert tree.simulations == len(moves)


def test_selection_weighs_value_against_visits_and_takes_the_first_of_equals() -> None:
    tree = opened()
    add(tree, 0, [[0.0], [1.0], [1.0]])
    assert chosen(tree, 0.0) == 2, "greedy: the first of the best"
    for _ in range(30):
        tree.nodes[2].back_propagate(1.0)
    assert chosen(tree, 2.0) == 3, "as good, but seldom visited"


def test_a_child_that_was_never_visited_is_tried_before_one_that_failed() -> None:
    tree = opened()
    add(tree, 0, [[0.0], []])
    assert chosen(tree, 2.0) == 2


def test_an_exhausted_branch_is_left_for_the_next_best() -> None:
    tree = opened()
    add(tree, 0, [[1.0], [0.0]])
    tree.simulate(tree.nodes[1], [], [], "TOO_LONG: no room")
    assert tree.nodes[1].error.startswith("TOO_LONG")
    assert chosen(tree, 2.0) == 2
    tree.simulate(tree.nodes[2], [], [])
    assert not tree.root.selectable


def test_a_branch_whose_children_are_all_exhausted_is_exhausted() -> None:
    tree = opened()
    add(tree, 0, [[1.0], [0.0]])
    add(tree, 1, [[1.0]])
    tree.simulate(tree.nodes[3], [], [])
    assert not tree.nodes[1].selectable
    assert chosen(tree, 2.0) == 2


def test_a_terminal_leaf_counts_its_own_value_again() -> None:
    tree = opened()
    add(tree, 0, [[1.0]], stop=StopReason.ANSWERED)
    tree.simulate(tree.nodes[1], [], [])
    assert (tree.root.visit_count, tree.root.value) == (2, 1.0)
    assert len(tree.rollouts) == 1


def test_a_rollout_that_broke_off_says_nothing_about_its_node() -> None:
    tree = opened()
    tree.simulate(tree.root, [prefix(tree.root.prefix)], [rollout(1, 0.0, error="DOWN: gone"), rollout(1, 1.0)])
    assert (tree.nodes[1].visit_count, tree.nodes[1].value) == (1, 1.0)
    assert [r.failed for r in tree.rollouts] == [True, False]


def test_a_final_turn_that_cannot_be_scored_is_not_selected_again() -> None:
    tree = opened()
    final = replace(prefix(tree.root.prefix), stop=StopReason.ANSWERED)
    tree.simulate(tree.root, [final], [rollout(1, 0.0, error="JUDGE: unreadable")])
    assert not tree.root.selectable
