"""What is left out of chains, answers of every type, and the statistics."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from tests.search.support import TASK, WrittenPolicy, example, said, search_one, searching, zoom
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Point
from vigorl_lib.domain.grammar import Answer, Zoom, parse_turn, render_turn
from vigorl_lib.domain.trajectory import Origin, Segment
from vigorl_lib.errors import DataError
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.chain_filters import repetition
from vigorl_lib.search.chain_statistics import success_at
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import Chains, ChainTask, linearize
from vigorl_lib.search.tree import Tree

SINGLE = Prompt("single", "Think, then answer.", "")
ALL = LinearizeConfig(max_chains_per_example=100, max_corrected_per_example=100, validation_share=0.0)
EVIDENCE = Box(180, 180, 220, 220)
"""In the model frame (112 px of 448) around (50, 50)."""


async def grown(write: Callable[[Sequence[Segment], int], str], question: Example | None = None) -> Tree:
    config = SearchConfig(simulations=1, children=2, rollouts_per_child=1, dedup_radius_px=0)
    return (await search_one(searching(WrittenPolicy(write), config, task=TASK), question))[0]


def answering(*thoughts: str) -> Callable[[Sequence[Segment], int], str]:
    """One turn each, both right."""
    return lambda prompt, index: render_turn(thoughts[index], Answer("pink"))


def made(tree: Tree, task: ChainTask | None = None, **changes: object) -> Chains:
    return linearize([tree], ALL.model_copy(update=changes), task or ChainTask(SINGLE), seed=0)


def thoughts(chains: Chains) -> set[str]:
    return {chain.turns[0].turn.thought for chain in chains.train}


@pytest.mark.parametrize(
    ("changes", "good", "bad", "reason"),
    [
        ({"min_words": 5}, "All of it, at (5, 5).", "At (5, 5).", "length"),
        ({"max_words": 5}, "Here at (5, 5).", "Here, as one can see, at (5, 5).", "length"),
        ({"max_repetition": 0.2}, "A dot at (5, 5).", "It is here, it is here, it is here, (5, 5).", "repetition"),
        ({"points_on_image": True}, "A dot at (5, 5).", "Far away at (500, 5).", "outside"),
        ({"min_points": 2}, "A dot (5, 5) and (9, 9).", "Once at (5, 5).", "points"),
    ],
)
async def test_a_filter_leaves_out_what_it_says_and_counts_it(
    changes: dict[str, object], good: str, bad: str, reason: str
) -> None:
    lax = {"points_on_image": False}
    tree = await grown(answering(good, bad))
    assert thoughts(made(tree, **lax)) == {good, bad}
    strict = made(tree, **(lax | changes))
    assert thoughts(strict) == {good}
    assert strict.statistics[f"left_out_{reason}"] == 1
    assert not [name for name in made(tree, **lax).statistics if name.startswith("left_out_")]


@pytest.mark.parametrize(
    "text",
    [
        "<think> Here <think> at (5, 5). </think> <answer> pink </answer>",
        "<think> At (5, 5). </think> So <answer> pink <tool_call> </answer>",
    ],
)
async def test_what_only_a_lenient_parser_reads_becomes_a_chain_only_if_its_spelling_is_strict(text: str) -> None:
    task = TASK.model_copy(update={"zoom": TASK.zoom.model_copy(update={"strict": False})})
    search = searching(WrittenPolicy(lambda prompt, index: text), SearchConfig(simulations=1, children=1), task=task)
    understood = parse_turn(text, strict=False).action
    assert isinstance(understood, Answer)
    tree, _ = await search_one(search, replace(example(), truth=GroundTruth(understood.text)))
    assert tree.solved
    assert made(tree).statistics["left_out_form"] == 1


async def test_thoughts_that_would_read_otherwise_in_one_block_are_left_out_of_it() -> None:
    """The two thoughts cite one point each; side by side they would cite a third."""

    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return render_turn("Near (9, 9) or at (5,", Zoom(Point(50, 50)))
        return render_turn("5) is the dot, at (5, 5).", Answer("pink"))

    tree = await grown(write)
    chains = made(tree, max_corrected_per_example=0)
    assert {chain.mode for chain in chains.train} == {"multi_turn"}
    assert chains.statistics["left_out_form"] == 1


async def test_chains_can_be_taken_in_turn_from_ways_that_begin_differently() -> None:
    """The first child has three right rollouts, the second one."""
    ways = itertools.count()

    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(50 + 40 * index, 50)
        return render_turn(f"Way {next(ways)} at (5, 5).", Answer("pink"))

    config = SearchConfig(simulations=6, children=2, rollouts_per_child=3, dedup_radius_px=0)
    tree = (await search_one(searching(WrittenPolicy(write), config, task=TASK)))[0]
    for node in tree.root.children:
        assert len([r for r in tree.rollouts if node in tree.nodes[r.node].path()]) >= 3
    cap = {"max_chains_per_example": 2, "single_turn": False, "max_corrected_per_example": 0}

    def beginnings(seed: int) -> set[str]:
        chains = linearize([tree], ALL.model_copy(update=cap), ChainTask(SINGLE), seed=seed).train
        return {chain.turns[0].text for chain in chains}

    drawn = [beginnings(seed) for seed in range(8)]
    assert 1 in map(len, drawn), "by chance both are of one branch"
    cap["balance_branches"] = True
    assert [len(beginnings(seed)) for seed in range(8)] == [2] * 8


def test_repetition_is_the_share_of_four_word_sequences_that_came_before() -> None:
    assert repetition(list("abcde")) == 0.0
    assert repetition(list("abc")) == 0.0
    assert repetition(list("aaaaaaa")) == pytest.approx(3 / 4)


async def test_a_right_answer_that_never_saw_the_evidence_can_be_left_out() -> None:
    """One child looks at the target, the other beside it; both guess right."""
    question = example()
    question = replace(question, truth=replace(question.truth, evidence=(EVIDENCE,)))

    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(50, 50) if index == 0 else zoom(100, 20)
        return render_turn("A dot at (50, 50).", Answer("pink"))

    tree = await grown(write, question)
    task = ChainTask(SINGLE, examples={question.example_id: question})
    assert made(tree, task).statistics["chains_direct"] == 2
    hit = made(tree, task, evidence_hit=True, single_turn=False)
    (chain,) = hit.train
    assert "(50, 50)" in chain.turns[0].text
    assert hit.statistics["left_out_evidence"] == 1
    with pytest.raises(DataError, match=r"evidence_hit: the truth of example one"):
        made(tree, evidence_hit=True)


async def test_without_a_zoom_the_last_point_must_lie_on_the_evidence() -> None:
    question = example()
    question = replace(question, truth=replace(question.truth, evidence=(EVIDENCE,)))
    tree = await grown(answering("First (5, 5), then (50, 50).", "First (50, 50), then (5, 5)."), question)
    task = ChainTask(SINGLE, examples={question.example_id: question})
    assert thoughts(made(tree, task, evidence_hit=True)) == {"First (5, 5), then (50, 50)."}


@pytest.mark.parametrize(
    ("truth", "said_answer"),
    [
        (GroundTruth("pink"), "pink"),
        (GroundTruth("", AnswerKind.POINT, box=EVIDENCE), "(50, 50)"),
        (GroundTruth("type [3] [two words]", AnswerKind.ACTION), "type [3] [two words]"),
        (GroundTruth("the left one", AnswerKind.CHOICE, choices=("the left one", "the right one")), "the left one"),
    ],
    ids=["text", "point", "action", "choice"],
)
async def test_answers_of_every_type_become_chains(truth: GroundTruth, said_answer: str) -> None:
    question = replace(example(), truth=truth)

    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(50 + index, 50)
        return render_turn("There at (50, 50).", Answer(said_answer))

    chains = made(await grown(write, question)).train
    assert {chain.mode for chain in chains} == {"multi_turn", "single_turn"}
    for chain in chains:
        assert chain.answer == said_answer
        last = [segment for segment in chain.segments if segment.origin is Origin.DEMONSTRATION][-1]
        assert last.text.endswith(f"<answer> {said_answer} </answer>")


def test_success_at_k_is_the_chance_of_one_right_draw() -> None:
    for n, right, k in [(6, 2, 3), (4, 0, 2), (5, 5, 1), (8, 1, 8)]:
        draws = list(itertools.combinations(range(n), k))
        assert success_at(k, n, right) == pytest.approx(sum(min(draw) < right for draw in draws) / len(draws))


async def test_success_of_trees_that_stop_when_solved_is_that_of_their_first_rollouts() -> None:
    """One is right at once, one on its third path, one never: a mean over long trees would see failures alone."""
    trees = []
    for number, hit in enumerate([0, 2, 9]):
        walked = itertools.count()

        def write(prompt: Sequence[Segment], index: int, hit: int = hit, walked: Iterator[int] = walked) -> str:
            return render_turn("At (5, 5).", Answer("pink" if next(walked) == hit else "cyan"))

        config = SearchConfig(kind="paths", simulations=4, stop_when_solved=True)
        trees.append((await search_one(searching(WrittenPolicy(write), config), example(f"e{number}")))[0])
    found = linearize(trees, ALL, ChainTask(SINGLE), seed=0).statistics
    assert [found[f"success_at_{k}"] for k in (1, 2, 4)] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert "success_at_8" not in found


async def test_statistics_tell_success_by_depth_cost_and_sizes() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        if not said(prompt):
            return zoom(50 + 40 * index, 50)
        return render_turn("At (1, 1) and (2, 2).", Answer("pink" if "(50, 50)" in said(prompt)[0] else "cyan"))

    found = made(await grown(write), single_turn=False).statistics
    assert (found["success_at_1"], found["success_at_2"]) == (0.5, 1.0)
    assert found["success_at_1_depth_1"] == 0.5
    assert "success_at_4" not in found
    # Two children and one turn more for each.
    assert (found["turns"], found["turns_per_solved"]) == (4, 4.0)
    assert "tokens" not in found
    assert (found["chains"], found["examples_with_chains"]) == (2, 1)
    # The direct chain zooms and answers, the corrected one goes astray before.
    assert (found["chains_turns_2"], found["chains_turns_3"]) == (1, 1)
    assert (found["chains_points_3"], found["chains_points_4"]) == (1, 1)
