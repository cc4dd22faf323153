"""Which rollouts a step trains on and with what: comparison in groups, truncated ones, weights, micro-batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import Group, StepGroups, StepPlan
from vigorl_lib.training.order import Limits, Prompt, plan_micro_batches
from vigorl_lib.training.plan import compare, is_truncated, overlong_share, plan_updates


def rollout(reward: float | None, tokens: int = 2, stop: StopReason = StopReason.ANSWERED) -> Trajectory:
    prompt = Segment(Origin.PROMPT, (Message(Role.USER, ("?",)),), token_ids=(1, 2, 3))
    said = Segment(
        Origin.POLICY, (), token_ids=(5,) * tokens, logprobs=(-1.0,) * tokens, policy_version=0, trained=True
    )
    shown = Segment(Origin.OBSERVATION, (), token_ids=(6, 6))
    return Trajectory("t", "e", "multi_turn", "p", (prompt, said, shown), (), stop, reward=reward)


def group(*rollouts: Trajectory, position: int = 0) -> Group:
    return Group(position, f"e{position}", rollouts)


def config(**changes: object) -> GrpoConfig:
    return GrpoConfig.model_validate({"prompts": 4, "advantage": "none"} | changes)


CUT = rollout(0.0, stop=StopReason.MAX_TOKENS)


def test_only_rollouts_with_a_reward_that_ended_by_themselves_are_compared() -> None:
    members = (rollout(1.0), rollout(None), rollout(0.0), rollout(0.5, stop=StopReason.POLICY_ERROR))
    assert compare(group(*members), config()) == [(0, 0.5), (2, -0.5)]


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [
        ("train", [(0, 0.75), (1, -0.25), (2, -0.25), (3, -0.25)]),
        ("mask", [(0, 0.75), (2, -0.25), (3, -0.25)]),  # Its reward counts, its tokens do not.
        ("drop", [(0, pytest.approx(2 / 3)), (2, pytest.approx(-1 / 3)), (3, pytest.approx(-1 / 3))]),
    ],
)
def test_truncated_rollouts_are_treated_as_said(truncated: str, expected: list[tuple[int, float]]) -> None:
    members = (rollout(1.0), CUT, rollout(0.0), rollout(0.0))
    assert compare(group(*members), config(truncated=truncated)) == expected


def test_a_group_that_only_truncated_rollouts_set_apart_teaches_nothing_without_them() -> None:
    members = (rollout(1.0), CUT, rollout(1.0))
    assert compare(group(*members), config(truncated="train"))
    assert compare(group(*members), config(truncated="drop")) == []


def test_equal_rewards_are_kept_only_where_the_filter_is_off() -> None:
    members = (rollout(1.0), rollout(1.0))
    assert compare(group(*members), config()) == []
    assert compare(group(*members), config(drop_zero_variance=False)) == [(0, 0.0), (1, 0.0)]


def test_a_rollout_in_which_the_policy_said_nothing_is_compared_and_not_trained() -> None:
    silent = rollout(0.0, tokens=0, stop=StopReason.CONTEXT_OVERFLOW)
    assert compare(group(rollout(1.0), silent), config()) == [(0, 0.5)]


def test_a_length_penalty_sets_in_before_the_budget_ends() -> None:
    # Four tokens behind the prompt.
    assert [overlong_share(rollout(1.0), budget, 4) for budget in (8, 6, 4)] == [0.0, 0.5, 1.0]
    assert is_truncated(CUT)
    assert is_truncated(rollout(1.0, stop=StopReason.CONTEXT_OVERFLOW))
    assert not is_truncated(rollout(1.0, stop=StopReason.MAX_TURNS))


def step_of(*groups: Group) -> StepGroups:
    return StepGroups(StepPlan(0, [g.position for g in groups]), {g.position: g for g in groups})


def test_every_rank_has_as_many_micro_batches_and_every_sample_is_in_one() -> None:
    groups = [group(*(rollout(float(n), tokens=1 + n + p) for n in range(4)), position=p) for p in range(3)]

    def assign(lengths: Sequence[int], prompts: Sequence[Prompt]) -> list[list[list[int]]]:
        return plan_micro_batches(lengths, 3, Limits(sequences=2, tokens=64), prompts=prompts)

    updates = plan_updates(step_of(*groups), config(updates=2), max_tokens=64, assign=assign)
    assert [{sample.position for sample in update.samples} for update in updates] == [{0, 2}, {1}]
    for update in updates:
        assert len({len(rank) for rank in update.micro_batches}) == 1
        found = sorted(index for rank in update.micro_batches for batch in rank for index in batch)
        assert found == list(range(len(update.samples)))
        tokens = sum(s.weight * (1 + s.number + s.position) for s in update.samples)
        assert tokens == pytest.approx(1.0)


def test_lengths_end_with_the_last_trained_token() -> None:
    seen: list[tuple[int, int]] = []

    def assign(lengths: Sequence[int], prompts: Sequence[Prompt]) -> list[list[list[int]]]:
        seen.extend(zip(lengths, [prompt.tokens for prompt in prompts], strict=True))
        return [[list(range(len(lengths)))]]

    plan_updates(step_of(group(rollout(1.0, 2), rollout(0.0, 5))), config(), max_tokens=64, assign=assign)
    assert seen == [(5, 3), (8, 3)]


def test_a_step_without_a_chosen_group_has_no_update() -> None:
    assert plan_updates(step_of(), config(), max_tokens=64, assign=lambda lengths, prompts: [[]]) == []
