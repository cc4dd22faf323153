from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.search.support import WrittenPolicy, answer, said, search_one, searching, zoom
from tests.search.test_tree import add, chosen, opened
from vigorl_lib.domain.trajectory import Message, Origin, Prefix, Role, Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import Generation
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.select import puct, puct_uniform, select, sequence_priors, ucb
from vigorl_lib.search.tree import Cost, Tree


def spoken(parent: Prefix, *logprobs: float) -> Prefix:
    text = (Message(Role.ASSISTANT, ("x",)),)
    segment = Segment(Origin.POLICY, text, tuple(range(len(logprobs))), logprobs=logprobs)
    return Prefix(parent, (segment,), None, b"", (), None, parent.depth + 1)


def grown(*likelihoods: tuple[float, ...]) -> Tree:
    tree = opened()
    tree.simulate(tree.root, [spoken(tree.root.prefix, *logprobs) for logprobs in likelihoods], [])
    return tree


def test_ucb_is_the_references_formula() -> None:
    tree = opened()
    add(tree, 0, [[0.0, 1.0], [1.0]])
    first, second = ucb(tree.root, 2.0)
    assert first == pytest.approx(0.5 + 2 * math.sqrt(math.log(4) / 3))
    assert second == pytest.approx(1.0 + 2 * math.sqrt(math.log(4) / 2))


def test_puct_tries_first_what_the_policy_found_likelier() -> None:
    tree = grown((-3.0, -3.0), (-0.1, -0.1), (-1.0,))
    assert chosen(tree, 2.0, "puct") == 2
    assert chosen(tree, 2.0, "puct_uniform") == 1, "the first of equals"
    for _ in range(20):
        tree.nodes[2].back_propagate(0.0)
    assert chosen(tree, 2.0, "puct") == 3, "likely, but never right"


def test_priors_do_not_depend_on_how_long_a_turn_is() -> None:
    tree = grown((-0.5,) * 3, (-0.5,) * 60)
    assert sequence_priors([child.prefix for child in tree.root.children]) == pytest.approx([0.5, 0.5])
    assert puct(tree.root, 2.0) == pytest.approx(puct_uniform(tree.root, 2.0))


def test_a_policy_without_log_probabilities_has_no_preference() -> None:
    tree = opened()
    add(tree, 0, [[0.0], [1.0]])
    with pytest.raises(PolicyError, match="puct_uniform") as caught:
        puct(tree.root, 2.0)
    assert caught.value.reason == "LOGPROBS_MISSING"


async def test_a_search_by_puct_over_a_text_exact_policy_says_what_to_take_instead() -> None:
    config = SearchConfig(simulations=4, selection="puct", dedup_radius_px=3)
    tree, records = await search_one(searching(WrittenPolicy(lambda *_: answer("pink")), config))
    assert (tree.end, tree.simulations) == ("error", 1)
    assert tree.error.startswith("LOGPROBS_MISSING: ")
    assert records[-1]["error"] == tree.error


async def test_a_search_by_puct_follows_the_policy_that_has_log_probabilities() -> None:
    class Sure(WrittenPolicy):
        """Finds its second continuation the likeliest."""

        async def generate(self, prompt: Sequence[Segment], **rest: Any) -> Generation:
            generation = await super().generate(prompt, **rest)
            told = (
                replace(one, token_ids=(1, 2), logprobs=(-0.1 if place == 1 else -4.0,) * 2)
                for place, one in enumerate(generation.completions)
            )
            return replace(generation, completions=tuple(told))

    def write(prompt: Sequence[Segment], index: int) -> str:
        return zoom(10 + 40 * index, 10 + 40 * len(said(prompt))) if len(said(prompt)) < 3 else answer("cyan")

    config = SearchConfig(simulations=2, selection="puct", dedup_radius_px=3)
    tree, records = await search_one(searching(Sure(write), config))
    assert [record["leaf"] for record in records if record["kind"] == "simulation"] == [0, 2]
    assert tree.cost.tokens == 2 * tree.cost.turns > 0


async def test_a_tree_begins_nothing_more_once_its_tokens_are_spent() -> None:
    class Exact(WrittenPolicy):
        async def generate(self, prompt: Sequence[Segment], **rest: Any) -> Generation:
            generation = await super().generate(prompt, **rest)
            told = (replace(one, token_ids=(1,) * 10, logprobs=(-1.0,) * 10) for one in generation.completions)
            return replace(generation, completions=tuple(told))

    policy = Exact(lambda *_: answer("cyan"))
    config = SearchConfig(simulations=50, children=3, max_tree_tokens=30)
    tree, _ = await search_one(searching(policy, config))
    assert (tree.end, tree.simulations, tree.cost) == ("tokens", 1, Cost(3, 30))


@pytest.mark.parametrize("selection", ["ucb", "puct_uniform"])
def test_what_is_in_flight_counts_as_wrong_until_it_is_taken_back(selection: str) -> None:
    tree = opened()
    add(tree, 0, [[1.0], [1.0]])
    assert chosen(tree, 2.0, selection) == 1
    tree.nodes[1].reserve(6)
    assert chosen(tree, 2.0, selection) == 2
    tree.nodes[1].reserve(-6)
    assert chosen(tree, 2.0, selection) == 1


def test_a_node_that_is_being_expanded_is_not_expanded_again() -> None:
    tree = opened()
    tree.root.expanding = True
    assert select(tree.root, "ucb", 2.0) is None
    tree.root.expanding = False
    add(tree, 0, [[1.0], [0.0]])
    tree.nodes[1].expanding = True
    assert chosen(tree, 2.0) == 2
    tree.nodes[2].expanding = True
    assert select(tree.root, "ucb", 2.0) is None
    assert tree.root.selectable, "something is left, only not at this moment"
