"""Which groups a step gets: refill, failures and recovery, with a policy and rewards that do as told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import ResizeRule, Size
from vigorl_lib.domain.grammar import parse_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Segment, StopReason, Trajectory
from vigorl_lib.environment.base import Episode, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import PolicyError, RewardError
from vigorl_lib.policy.base import Completion, FinishReason, Generation, PolicyInfo, Sampling, Scored
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import StepGroups, read_step, rollout_metrics
from vigorl_lib.training.producer import Producer

RESIZE = ResizeRule(factor=28, min_pixels=28 * 28, max_pixels=112 * 112)
INFO = PolicyInfo("fake", "fake", "fake", "", 0, True, True, False, 1024, RESIZE)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060"
    "0000000400016b6e8c750000000049454e44ae426082"
)


class Answers:
    """Answers at once; counts what it was asked and can fail on some seeds' behalf."""

    def __init__(self, fails: Callable[[str], bool] = lambda request: False) -> None:
        self.asked: list[str] = []
        self._fails = fails

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self.asked.append(request_id)
        if self._fails(request_id):
            raise PolicyError("the engine is gone", reason="ENGINE_FAILED", infrastructure=True)
        rendered = tuple(s if s.token_ids else s.rendered((1, 2, 3), ()) for s in prompt)
        # Not in the order of asking, so that the order of completion says nothing.
        await asyncio.sleep(0.002 * (len(self.asked) % 3))
        said = Completion("<think> x </think>\n<answer> a </answer>", (7, 8), (-0.5, -0.5), FinishReason.END_OF_TURN, 0)
        return Generation(rendered, (said,) * len(seeds), INFO)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise NotImplementedError

    async def info(self) -> PolicyInfo:
        return INFO

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        return INFO

    async def close(self) -> None: ...


class OneTurn:
    async def start(self, image: Image, *, mode: str, config: ZoomConfig, resize: ResizeRule) -> Episode:
        return Episode(b"", Size(28, 28))

    async def step(self, state: bytes, text: str, image: Image) -> Outcome:
        return Outcome(state, parse_turn(text), None, StopReason.ANSWERED)

    async def crop(self, *_: object, **__: object) -> tuple[object, Image]:
        raise NotImplementedError

    async def close(self) -> None: ...


class ByPrompt:
    """Rewards of a group by its example: all equal, all different, or an error."""

    def __init__(self, dull: set[str], broken: set[str] | None = None) -> None:
        self._dull, self._broken = dull, broken or set()

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        def one(index: int, example_id: str) -> Score | Exception:
            if example_id in self._broken:
                return RewardError("no judge", reason="JUDGE_FAILED")
            value = 0.0 if example_id in self._dull else float(index)
            return Score(value, {"answer": value}, RewardOutcome.CORRECT)

        return [one(index, example.example_id) for index, (example, _) in enumerate(items)]

    async def close(self) -> None: ...


def produce(
    root: Path, config: GrpoConfig, policy: Answers, reward: ByPrompt, *, validation: int = 0
) -> list[StepGroups]:
    storage = open_storage(str(root))
    images = ImageStore(storage)
    image = images.put(PNG).without_data()
    examples = [Example(f"e{n}", "What?", (image,), GroundTruth("a")) for n in range(10)]
    layout = RunLayout(storage, "run")
    wired = Wired(policy, OneTurn(), reward)  # type: ignore[arg-type]
    task = TaskConfig(family="synthetic_search", max_tokens=64)
    producer = Producer(
        config,
        task,
        RewardConfig(),
        wired,
        examples=examples,
        layout=layout,
        images=images,
        seed=0,
        validation=examples[:validation],
    )
    asyncio.run(producer.run())
    steps = [read_step(layout, step) for step in range(config.steps)]
    return [step for step in steps if step is not None]


def config(**changes: object) -> GrpoConfig:
    return GrpoConfig.model_validate({"prompts": 3, "group_size": 2, "steps": 1, "max_in_flight": 4} | changes)


def test_groups_that_teach_nothing_are_replaced_by_the_next_prompts(tmp_path: Path) -> None:
    every = produce(tmp_path / "a", config(), Answers(), ByPrompt(set()))[0]
    first = {position: group.example_id for position, group in every.groups.items()}
    assert every.plan.chosen == [0, 1, 2]
    step = produce(tmp_path / "b", config(), Answers(), ByPrompt({first[1]}))[0]
    assert step.plan.chosen == [0, 2, 3]
    assert step.plan.next_position == 4
    metrics = rollout_metrics(step)
    assert metrics["zero_variance_share"] == 0.25
    assert metrics["groups_chosen"] == 3


def test_refill_is_bounded(tmp_path: Path) -> None:
    step = produce(tmp_path, config(max_refill=0.5), Answers(), ByPrompt({f"e{n}" for n in range(10)}))[0]
    assert len(step.groups) == 4
    assert step.plan.chosen == []


def test_without_the_filter_every_group_is_trained_on(tmp_path: Path) -> None:
    dull = ByPrompt({f"e{n}" for n in range(10)})
    step = produce(tmp_path, config(drop_zero_variance=False), Answers(), dull)[0]
    assert step.plan.chosen == [0, 1, 2]


def test_a_group_without_rewards_is_on_record_but_not_chosen(tmp_path: Path) -> None:
    order = produce(tmp_path / "a", config(), Answers(), ByPrompt(set()))[0]
    broken = order.groups[0].example_id
    step = produce(tmp_path / "b", config(), Answers(), ByPrompt(set(), {broken}))[0]
    assert step.plan.chosen == [1, 2, 3]
    assert step.groups[0].failed
    assert rollout_metrics(step)["failed_share"] == 0.25


def test_a_rollout_that_failed_is_left_out_of_its_group(tmp_path: Path) -> None:
    answers = Answers(fails=lambda request: request.endswith("/0/1"))
    step = produce(tmp_path, config(group_size=3), answers, ByPrompt(set()))[0]
    group = step.groups[0]
    assert [trajectory.stop for trajectory in group.trajectories].count(StopReason.POLICY_ERROR) == 1
    assert len(group.scored) == 2
    assert step.plan.chosen == [0, 1, 2]


def test_a_rollout_that_a_service_failed_once_is_tried_again(tmp_path: Path) -> None:
    failed: set[str] = set()

    def once(request: str) -> bool:
        first = request not in failed
        failed.add(request)
        return first

    step = produce(tmp_path, config(), Answers(fails=once), ByPrompt(set()))[0]
    assert step.plan.chosen == [0, 1, 2]
    assert all(len(group.scored) == 2 for group in step.groups.values())


def test_a_policy_that_always_fails_ends_the_run_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="the engine is gone") as caught:
        produce(tmp_path, config(), Answers(fails=lambda request: True), ByPrompt(set()))
    assert caught.value.reason == "ROLLOUTS_FAILED"


def test_groups_on_record_are_not_rolled_out_again(tmp_path: Path) -> None:
    whole = produce(tmp_path / "whole", config(), Answers(), ByPrompt(set()))[0]
    killed = tmp_path / "killed"
    produce(killed, config(), Answers(), ByPrompt(set()))
    # As a producer that was killed before the marker leaves it.
    (killed / "runs" / "run" / "trajectories" / "000000" / "COMMITTED").unlink()
    policy = Answers()
    again = produce(killed, config(), policy, ByPrompt(set()))[0]
    assert policy.asked == []
    assert again.plan.chosen == whole.plan.chosen
    assert {p: g.example_id for p, g in again.groups.items()} == {p: g.example_id for p, g in whole.groups.items()}


def test_steps_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    # With a lag of one version the second step needs no newer weights than the first.
    first, second = produce(tmp_path, config(steps=2, max_policy_lag=1), Answers(), ByPrompt(set()))
    assert min(second.groups) == first.plan.next_position == 3


def test_the_producer_needs_no_torch() -> None:
    code = "import sys, vigorl_lib.training.producer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_modes_are_mixed_by_their_weights_a_group_each(tmp_path: Path) -> None:
    mix = config(prompts=4, steps=2, max_policy_lag=1, modes={"multi_turn": 3, "single_turn": 1})
    steps = produce(tmp_path, mix, Answers(), ByPrompt(set()))
    for step in steps:
        modes = [{trajectory.mode for trajectory in group.trajectories} for group in step.groups.values()]
        assert all(len(mode) == 1 for mode in modes)
        assert modes.count({"single_turn"}) == 1
        prompts = {(group.trajectories[0].mode, group.trajectories[0].segments[0].text) for group in step.chosen}
        assert len(prompts) == 2, "each mode asks with its own prompt"
        metrics = rollout_metrics(step)
        assert metrics["mode_single_turn"] == 0.25
        assert metrics["correct_in_single_turn"] == 1.0


def test_validation_runs_on_its_schedule_and_its_results_travel_with_the_step(tmp_path: Path) -> None:
    values = {"every": 2, "examples": 4, "modes": ["single_turn", "multi_turn"]}
    plain = config(steps=3, max_policy_lag=2, validation=values)
    first, second, third = produce(tmp_path, plain, Answers(), ByPrompt(set()), validation=4)
    for step in (first, third):
        assert rollout_metrics(step)["validation_correct_single_turn"] == 1.0
        assert "validation_reward_multi_turn" in rollout_metrics(step)
        assert rollout_metrics(step)["validation_version"] == 0
    assert not second.plan.validation


def test_a_validation_that_services_fail_does_not_end_the_run(tmp_path: Path) -> None:
    answers = Answers(fails=lambda request: "evaluate" in request)
    values = config(validation={"every": 1})
    (step,) = produce(tmp_path, values, answers, ByPrompt(set()), validation=2)
    assert step.plan.chosen == [0, 1, 2]
    assert not step.plan.validation


def test_metrics_tell_by_how_many_versions_the_sampler_was_behind(tmp_path: Path) -> None:
    first, second = produce(tmp_path, config(steps=2, max_policy_lag=1), Answers(), ByPrompt(set()))
    assert rollout_metrics(first)["policy_lag"] == 0.0
    metrics = rollout_metrics(second)
    assert metrics["policy_lag"] == metrics["policy_lag_max"] == 1
    assert metrics["mixed_version_share"] == 0.0


def test_an_overlong_rollout_loses_reward_in_proportion(tmp_path: Path) -> None:
    # A rollout has two tokens behind the prompt, of 64: the last 63 of which the first is one.
    shaped = config(overlong_tokens=63, overlong_penalty=2.0)
    (step,) = produce(tmp_path, shaped, Answers(), ByPrompt(set()))
    for group in step.groups.values():
        for number, trajectory in enumerate(group.trajectories):
            assert trajectory.reward_parts["overlong"] == pytest.approx(-1 / 63)
            assert trajectory.reward == pytest.approx(number - 2 / 63)


class Newest(Answers):
    """Has newer weights than any step needs, and notes which a request wants."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[int] = []

    async def generate(self, prompt: Sequence[Segment], **options: Any) -> Generation:
        self.wanted.append(options["min_policy_version"])
        return await super().generate(prompt, **options)

    async def info(self) -> PolicyInfo:
        return replace(INFO, version=9)


@pytest.mark.parametrize(("lag", "wanted"), [(0, [0, 1, 2]), (1, [0, 0, 1])])
def test_every_request_says_the_version_that_its_step_needs(tmp_path: Path, lag: int, wanted: list[int]) -> None:
    policy = Newest()
    # One rollout at a time, so that they are asked for in the order of their steps.
    produce(tmp_path, config(steps=3, max_policy_lag=lag, max_in_flight=1), policy, ByPrompt(set()))
    rollouts = len(policy.wanted) // 3
    assert policy.wanted == [version for version in wanted for _ in range(rollouts)]
