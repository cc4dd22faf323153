"""Free answers and who decides about them: a real OpenAI-compatible endpoint, and a policy service."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures_openai import Reply, completion, refusal, serving
from tests.reward.test_rules import EXAMPLE, trajectory, turn
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.grammar import Answer
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import RewardError, VigorlError
from vigorl_lib.policy.config import OpenAiConfig, PolicyConfig
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import JudgeConfig, RewardConfig
from vigorl_lib.reward.judge import Judge
from vigorl_lib.reward.local import LocalReward

pytest.importorskip("openai", reason="the openai package is not installed (extra openai)")

FREE = replace(EXAMPLE, question="Why?", truth=GroundTruth("It rained.", AnswerKind.FREE))
VERDICT = {True: "They agree. <answer> right </answer>", False: "<answer>Wrong</answer>"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGORL_OPENAI__API_KEY", "sk-test")


def config_of(url: str, **settings: Any) -> JudgeConfig:
    engine = PolicyConfig(
        engine="openai", name="judge", model="gpt", revision="r7", openai=OpenAiConfig(base_url=url, max_retries=0)
    )
    return JudgeConfig.model_validate({"engine": engine, "with_image": False, **settings})


def said(answer: str) -> Trajectory:
    return trajectory(turn("At (10, 10).", Answer(answer)))


async def scored(reward: LocalReward, *items: tuple[Example, Trajectory]) -> list[Score | Exception]:
    return await reward.score(items, config=RewardConfig())


def agrees(body: dict[str, Any]) -> Reply:
    text = str(body["messages"][-1]["content"])
    return completion(VERDICT["student: Because of rain" in text])


async def test_the_judge_decides_about_free_answers_only_and_is_named_in_the_score() -> None:
    async with serving(agrees) as endpoint:
        reward = LocalReward(await asyncio.to_thread(Judge.open, config_of(endpoint.url)))
        right, wrong, same, plain = await scored(
            reward,
            (FREE, said("Because of rain")),
            (FREE, said("Because of snow")),
            (FREE, said("it rained")),
            (EXAMPLE, said("pink")),
        )
        await reward.close()
    assert isinstance(right, Score)
    assert isinstance(wrong, Score)
    assert isinstance(same, Score)
    assert isinstance(plain, Score)
    assert (right.outcome, right.judged_by) == (RewardOutcome.CORRECT, "judge@r7/0")
    assert (wrong.outcome, wrong.parts["answer"]) == (RewardOutcome.WRONG, 0.0)
    assert (same.outcome, same.judged_by) == (RewardOutcome.CORRECT, ""), "word for word, nobody is asked"
    assert plain.judged_by == ""
    assert len(endpoint.requests) == 2
    text = str(endpoint.requests[0]["messages"])
    assert "Why?" in text
    assert "It rained." in text


async def test_a_question_that_was_judged_is_not_asked_again() -> None:
    async with serving(agrees) as endpoint:
        reward = LocalReward(await asyncio.to_thread(Judge.open, config_of(endpoint.url)))
        first = await scored(reward, (FREE, said("Because of rain")))
        assert await scored(reward, (FREE, said("Because of rain"))) == first
        assert len(endpoint.requests) == 1
        other = replace(FREE, truth=GroundTruth("It snowed.", AnswerKind.FREE))
        await scored(reward, (other, said("Because of rain")))
        assert len(endpoint.requests) == 2
        await reward.close()


async def test_what_several_rollouts_say_at_once_is_asked_once_and_a_failure_is_not_shared() -> None:
    replies = iter([refusal(503), *[completion(VERDICT[True])] * 2])
    async with serving(lambda _: replace(next(replies), delay_s=0.05)) as endpoint:
        reward = LocalReward(await asyncio.to_thread(lambda: Judge.open(config_of(endpoint.url, attempts=1))))
        same = [(FREE, said("Because of rain"))] * 6
        first, *others = await scored(reward, *same)
        await reward.close()
    assert isinstance(first, VigorlError)
    assert all(isinstance(score, Score) and score.correct for score in others)
    assert len(endpoint.requests) == 2


async def test_a_reply_without_a_verdict_is_asked_for_again_and_is_never_a_wrong_answer() -> None:
    replies = iter(["I cannot say.", "<answer> maybe </answer>", VERDICT[True], "no", "no", "no"])
    async with serving(lambda _: completion(next(replies))) as endpoint:
        reward = LocalReward(await asyncio.to_thread(Judge.open, config_of(endpoint.url)))
        (score,) = await scored(reward, (FREE, said("a")))
        (failed,) = await scored(reward, (FREE, said("b")))
        await reward.close()
    assert isinstance(score, Score)
    assert score.correct
    assert isinstance(failed, RewardError)
    assert (failed.reason, failed.infrastructure) == ("JUDGE_UNREADABLE", False)
    assert len(endpoint.requests) == 6
    assert [request["temperature"] for request in endpoint.requests[:3]] == [0.0, 0.7, 0.7]


async def test_an_outage_of_the_judge_is_tried_again_and_then_is_an_outage() -> None:
    replies = iter([refusal(503), completion(VERDICT[True]), *[refusal(503)] * 3])
    async with serving(lambda _: next(replies)) as endpoint:
        reward = LocalReward(await asyncio.to_thread(Judge.open, config_of(endpoint.url)))
        (score,) = await scored(reward, (FREE, said("a")))
        (failed,) = await scored(reward, (FREE, said("b")))
        await reward.close()
    assert isinstance(score, Score)
    assert isinstance(failed, VigorlError)
    assert failed.infrastructure


async def test_a_slow_judge_is_given_up_and_no_more_are_asked_at_once_than_allowed() -> None:
    async with serving(lambda _: replace(completion(VERDICT[True]), delay_s=0.4)) as endpoint:
        settings = {"timeout_s": 0.1}
        hasty = LocalReward(await asyncio.to_thread(lambda: Judge.open(config_of(endpoint.url, **settings))))
        (failed,) = await scored(hasty, (FREE, said("a")))
        await hasty.close()
        assert isinstance(failed, RewardError)
        assert (failed.reason, failed.infrastructure) == ("JUDGE_TIMEOUT", True)
        patient = LocalReward(await asyncio.to_thread(lambda: Judge.open(config_of(endpoint.url, in_flight=2))))
        endpoint.most_in_flight = 0
        assert all(
            isinstance(score, Score) for score in await scored(patient, *[(FREE, said(str(k))) for k in range(6)])
        )
        assert endpoint.most_in_flight == 2
        await patient.close()


async def test_the_time_limit_of_a_question_does_not_run_while_it_waits_for_its_turn() -> None:
    async with serving(lambda _: replace(completion(VERDICT[True]), delay_s=0.2)) as endpoint:
        config = config_of(endpoint.url, timeout_s=0.5, in_flight=1)
        reward = LocalReward(await asyncio.to_thread(Judge.open, config))
        scores = await scored(reward, *[(FREE, said(str(k))) for k in range(5)])
        await reward.close()
    assert all(isinstance(score, Score) for score in scores)


async def test_a_free_answer_without_a_judge_says_what_to_configure() -> None:
    (failed,) = await scored(LocalReward(), (FREE, said("because")))
    assert isinstance(failed, RewardError)
    assert failed.reason == "JUDGE_MISSING"
    assert "services.judge" in failed.message


def test_a_judge_is_behind_an_address_or_in_this_process() -> None:
    for settings in ({}, {"target": "h:1", "engine": {"model": "m"}}):
        with pytest.raises(ValueError, match="either `target`"):
            JudgeConfig.model_validate(settings)
