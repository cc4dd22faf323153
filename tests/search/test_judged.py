"""A search whose answers a language model judges: the judge is a policy that this test writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.search.support import WrittenPolicy, answer, example, said, search_one, searching, zoom
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.prompts import Prompt
from vigorl_lib.reward.config import JudgeConfig
from vigorl_lib.reward.judge import Judge
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.search.config import LinearizeConfig, SearchConfig
from vigorl_lib.search.linearize import ChainTask, linearize

SEARCH = SearchConfig(simulations=3, children=2, rollouts_per_child=1, dedup_radius_px=0)


@pytest.fixture
def question() -> Example:
    return replace(example(), truth=GroundTruth("It rained.", AnswerKind.FREE))


def student(prompt: Sequence[Segment], index: int) -> str:
    """Right in words of its own after the left place, wrong after the right one."""
    if not said(prompt):
        return zoom(30 + 50 * index, 50)
    return answer("Because of the rain" if "(30, 50)" in said(prompt)[0] else "Because of the snow")


def judged(judge: WrittenPolicy) -> LocalReward:
    return LocalReward(Judge(judge, JudgeConfig(target="written")))


async def test_what_a_judge_finds_right_is_propagated_and_becomes_a_chain(question: Example) -> None:
    def verdict(prompt: Sequence[Segment], index: int) -> str:
        right = "student: Because of the rain" in prompt[-1].text
        return f"<answer> {'right' if right else 'wrong'} </answer>"

    judge = WrittenPolicy(verdict)
    tree, _ = await search_one(searching(WrittenPolicy(student), SEARCH, reward=judged(judge)), question)
    left, right = tree.root.children
    assert (left.value, right.value) == (1.0, 0.0)
    assert tree.root.visit_count == left.visit_count + right.visit_count
    assert len(judge.requests) == 2, "the same answer to the same question is judged once"
    chains = linearize([tree], LinearizeConfig(validation_share=0.0), ChainTask(Prompt("s", "Think.", "")), seed=0)
    assert {chain.answer for chain in chains.train} == {"Because of the rain"}


async def test_an_answer_without_a_verdict_counts_nowhere(question: Example) -> None:
    judge = WrittenPolicy(lambda prompt, index: "Who knows?")
    tree, _ = await search_one(searching(WrittenPolicy(student), SEARCH, reward=judged(judge)), question)
    assert tree.end
    assert {rollout.trajectory.error.partition(":")[0] for rollout in tree.rollouts} == {"JUDGE_UNREADABLE"}
    assert [node.visit_count for node in tree.nodes] == [0] * len(tree.nodes)


async def test_a_judge_that_is_away_leaves_the_tree_to_the_next_search(question: Example) -> None:
    away = True

    async def before() -> None:
        if away:
            raise PolicyError("nobody there", reason="UNAVAILABLE", infrastructure=True)

    judge = WrittenPolicy(lambda prompt, index: "<answer> right </answer>", before)
    search = searching(WrittenPolicy(student), SEARCH, reward=judged(judge))
    tree, records = await search_one(search, question)
    assert (tree.end, tree.simulations, [record["kind"] for record in records]) == ("", 0, ["root"])
    assert tree.error.startswith("UNAVAILABLE")
    away = False

    async def journal(_: object) -> None:
        """The tree itself tells."""

    await search.search(question, tree, journal)
    assert (tree.end, tree.simulations, tree.error) == ("budget", 3, "")
