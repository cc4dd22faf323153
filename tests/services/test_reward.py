"""The reward service answers as the rules in this process do."""

from __future__ import annotations

from dataclasses import replace

from tests.services.conftest import serving
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.grammar import Answer, parse_turn, render_turn
from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
from vigorl_lib.reward.client import MAX_ITEMS, RewardClient
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_services.reward.__main__ import RewardServiceConfig, build


def said(example: Example, answer: str) -> Trajectory:
    text = render_turn("It is at (38, 66).", Answer(answer))
    turn = TurnRecord(parse_turn(text), text, "stop_string")
    return Trajectory(
        "t", example.example_id, "multi_turn", "p", (), (turn,), StopReason.ANSWERED, model_size=Size(112, 112)
    )


async def test_scores_equal_the_local_ones_in_order_also_in_several_calls(examples: list[Example]) -> None:
    right = [(example, said(example, example.truth.answer)) for example in examples]
    wrong = [(example, said(example, "no such color")) for example in examples]
    items = (right + wrong) * (MAX_ITEMS // 8 + 2)
    async with serving(build, RewardServiceConfig()) as address:
        client = RewardClient(address)
        there = await client.score(items, config=RewardConfig())
        await client.close()
    assert there == await LocalReward().score(items, config=RewardConfig())
    assert len(there) > MAX_ITEMS


async def test_an_item_that_cannot_be_scored_fails_alone(examples: list[Example]) -> None:
    good = examples[0]
    bad = replace(good, truth=replace(good.truth, kind=AnswerKind.POINT, box=None))
    items = [(good, said(good, good.truth.answer)), (bad, said(bad, "(1, 2)"))]
    local = await LocalReward().score(items, config=RewardConfig())
    async with serving(build, RewardServiceConfig()) as address:
        client = RewardClient(address)
        remote = await client.score(items, config=RewardConfig())
        await client.close()
    assert remote[0] == local[0]
    assert isinstance(local[1], Exception)
    assert (type(remote[1]), str(remote[1])) == (type(local[1]), str(local[1]))
