"""The reward service answers as the rules in this process do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rollout.support import WordPolicy
from tests.services.conftest import serving
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.grammar import Answer, parse_turn, render_turn
from vigorl_lib.domain.trajectory import Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import ConfigError, RewardError
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.client import MAX_ITEMS, RewardClient
from vigorl_lib.reward.config import JudgeConfig, RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.server import PolicyServer
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


def halved(example: Example, trajectory: Trajectory, config: RewardConfig) -> Score:
    if trajectory.answer == "fail":
        raise ValueError("as asked")
    return Score(config.answer_weight / 2, {"half": 0.5}, RewardOutcome.CORRECT)


async def test_a_rule_of_the_servers_own_list_scores_and_no_request_can_name_another(examples: list[Example]) -> None:
    config = RewardServiceConfig(rules={"halved": f"{__name__}:halved"})
    items = [(examples[0], said(examples[0], "pink")), (examples[1], said(examples[1], "fail"))]
    async with serving(build, config) as address:
        client = RewardClient(address)
        good, failed = await client.score(items, config=RewardConfig(rule="halved", answer_weight=0.8))
        with pytest.raises(ConfigError, match="expected one of composed, halved") as caught:
            await client.score(items, config=RewardConfig(rule="os.system"))
        await client.close()
    assert good == Score(0.4, {"half": 0.5}, RewardOutcome.CORRECT)
    assert isinstance(failed, RewardError)
    assert (failed.reason, "ValueError: as asked" in failed.message) == ("RULE_FAILED", True)
    assert caught.value.reason == "RULE_UNKNOWN"


@asynccontextmanager
async def judging(judge: WordPolicy) -> AsyncIterator[str]:
    """The address of a policy service that serves a judge."""

    async def ready() -> None:
        """It always is."""

    @asynccontextmanager
    async def build_judge(config: PolicyServiceConfig) -> AsyncIterator[Service]:
        server = PolicyServer(judge, "words", config.open_images())
        yield Service("vigorl.policy.v1.PolicyService", registrar(add_PolicyServiceServicer_to_server, server), ready)

    config = PolicyServiceConfig(policy=PolicyConfig(name="words", model="none"))
    async with serving(build_judge, config) as address:
        yield address


async def test_a_policy_service_judges_free_answers_with_the_image_and_is_named_with_its_version(
    examples: list[Example], root: Path
) -> None:
    shown = []

    def judge(prompt: Sequence[Segment], index: int) -> str:
        shown.append([image.sha256 for segment in prompt for image in segment.images])
        text = prompt[-1].text
        if "student: who knows" in text:
            return "hard to say"
        return "<answer> right </answer>" if "student: because" in text else "<answer> wrong </answer>"

    example = replace(examples[0], truth=replace(examples[0].truth, kind=AnswerKind.FREE))
    answers = ("because", "because", "in spite", "who knows", example.truth.answer)
    async with judging(WordPolicy(judge, exact=False)) as policy:
        config = RewardServiceConfig(root=str(root), judge=JudgeConfig(policy="words", target=policy, attempts=2))
        async with serving(build, config) as address:
            client = RewardClient(address)
            scores = await client.score([(example, said(example, a)) for a in answers], config=RewardConfig())
            await client.close()
    right, same, wrong, undecided, spelled = scores
    assert isinstance(right, Score)
    assert isinstance(wrong, Score)
    assert isinstance(spelled, Score)
    assert (right.outcome, right.judged_by) == (RewardOutcome.CORRECT, "words@/5")
    assert same == right
    assert (wrong.outcome, wrong.judged_by) == (RewardOutcome.WRONG, "words@/5")
    assert isinstance(undecided, RewardError)
    assert undecided.reason == "JUDGE_UNREADABLE"
    assert (spelled.outcome, spelled.judged_by) == (RewardOutcome.CORRECT, ""), "word for word: nobody is asked"
    assert shown == [[example.images[0].sha256]] * 4, "one question each, and one more for the unreadable reply"


async def test_a_call_that_waits_for_a_judge_has_the_deadline_of_a_model(examples: list[Example], root: Path) -> None:
    example = replace(examples[0], truth=replace(examples[0].truth, kind=AnswerKind.FREE))
    slow = WordPolicy(lambda *_: "<answer> right </answer>", exact=False, delay=lambda _: 0.6)
    connections = Connections(ClientConfig(quick_timeout_s=0.3, timeout_s=30))
    async with judging(slow) as policy:
        config = RewardServiceConfig(root=str(root), judge=JudgeConfig(policy="words", target=policy, timeout_s=10))
        async with serving(build, config) as address:
            client = RewardClient(address, connections=connections)
            (score,) = await client.score([(example, said(example, "because"))], config=RewardConfig())
            await client.close()
            await connections.close()
    assert isinstance(score, Score)
    assert score.correct
