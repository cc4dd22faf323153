"""Two evaluations side by side, and scoring again without asking."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.evaluation.support import REWARD, measure, scenes, teacher, watched
from vigorl_lib.cli.evaluate import compare, evaluate
from vigorl_lib.errors import ConfigError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.rescore import rescore
from vigorl_lib.evaluation.versus import render_versus, versus
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.storage.base import open_storage

SCENES = scenes(6)
RECORD = SampleRecord("q0", True, "correct", "answered", "pink", 1, 0, 1.0, tags={"size": "small"})


def run_of(answers: str) -> list[SampleRecord]:
    return [
        replace(
            RECORD,
            example_id=f"q{k}",
            correct=letter == "r",
            outcome={"r": "correct", "w": "wrong", "m": "malformed"}[letter],
            tags={"size": "small" if k % 2 else "large"},
        )
        for k, letter in enumerate(answers)
    ]


def test_two_runs_are_compared_over_all_by_category_and_by_what_flipped() -> None:
    found = versus(run_of("rrrwmr"), run_of("wrwwrrr"))
    assert (found.overall.n, found.overall.only_first, found.overall.only_second) == (6, 2, 1)
    assert found.only_in_one == 1
    assert {value: paired.n for value, paired in found.by_tag["size"].items()} == {"large": 3, "small": 3}
    assert [(flip.example_id, flip.gained) for flip in found.flips] == [("q0", True), ("q2", True), ("q4", False)]
    assert found.flips[2].outcomes == ("malformed", "correct")
    text = render_versus(found, "grpo", "sft", max_flips=2)
    assert "size: small" in text
    assert "3 flips, the first 2:" in text
    assert "+ q0: 'pink' (correct) / 'pink' (wrong)" in text
    assert "1 samples stand in one of the two only" in text
    long = [replace(record, answer="word " * 400) for record in run_of("w")]
    assert max(map(len, render_versus(versus(run_of("r"), long), "a", "b").splitlines())) < 160


def test_runs_over_other_questions_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="share no question"):
        versus(run_of("rr"), [replace(RECORD, example_id="other")])


async def test_kept_conversations_are_scored_by_another_reward_without_asking_anyone(tmp_path: Path) -> None:
    before = await measure(SCENES, teacher(SCENES), tmp_path, keep=len(SCENES))
    storage = open_storage(str(tmp_path))
    same = await rescore(SCENES, LocalReward(), REWARD, storage=storage, prefix="evaluation")
    assert same == before
    dear = REWARD.model_copy(update={"answer_weight": 10.0})
    again = await rescore(SCENES[2:4], LocalReward(), dear, storage=storage, prefix="evaluation")
    assert [record.example_id for record in again] == [example.example_id for example in SCENES[2:4]]
    assert [r.correct for r in again] == [r.correct for r in before[2:4]]
    assert all(
        new.reward - old.reward == pytest.approx(9.4 * old.correct) for new, old in zip(again, before[2:4], strict=True)
    )
    policy = watched(SCENES)
    assert await measure(SCENES, policy, tmp_path) == before, "the records of the evaluation are as they were"


async def test_what_was_not_kept_cannot_be_scored_again(tmp_path: Path) -> None:
    await measure(SCENES, teacher(SCENES), tmp_path, keep=2)
    with pytest.raises(ConfigError, match=r"4 of 6 examples.*keep_trajectories=6"):
        await rescore(SCENES, LocalReward(), REWARD, storage=open_storage(str(tmp_path)), prefix="evaluation")


async def test_each_sample_is_scored_again_and_one_without_its_trajectory_is_told(tmp_path: Path) -> None:
    before = await measure(SCENES[:2], teacher(SCENES), tmp_path, keep=2, samples=2)
    storage = open_storage(str(tmp_path))
    assert await rescore(SCENES[:2], LocalReward(), REWARD, storage=storage, prefix="evaluation") == before
    await measure(SCENES[:2], teacher(SCENES), tmp_path, keep=1, samples=3)
    with pytest.raises(ConfigError, match=r"1 of 2 examples were not kept \(first scene-001\)"):
        await rescore(SCENES[:2], LocalReward(), REWARD, storage=storage, prefix="evaluation")
    with pytest.raises(ConfigError, match="1 are not evaluated at all"):
        await rescore([SCENES[0], SCENES[5]], LocalReward(), REWARD, storage=storage, prefix="evaluation")


async def test_several_samples_of_a_question_are_several_records_and_resume_one_by_one(tmp_path: Path) -> None:
    some = await measure(SCENES[:2], teacher(SCENES), tmp_path, samples=2)
    assert [(r.example_id, r.sample) for r in some] == [
        ("scene-000", 0), ("scene-000", 1), ("scene-001", 0), ("scene-001", 1),
    ]  # fmt: skip
    policy = watched(SCENES)
    more = await measure(SCENES[:2], policy, tmp_path, samples=3)
    assert sorted(set(policy.asked)) == ["scene-000", "scene-001"]
    assert [r for r in more if r.sample < 2] == some


async def test_the_command_tells_how_the_two_were_asked_and_refuses_other_data(tmp_path: Path) -> None:
    for mode in ("single_turn", "multi_turn"):
        prefix = f"runs/r/evaluation/teacher/{mode}"
        await measure(SCENES, teacher(SCENES, mode=mode), tmp_path, prefix=prefix, mode=mode, dataset="scenes/test")
    other = "runs/other/evaluation/teacher/multi_turn"
    await measure(SCENES[:2], teacher(SCENES), tmp_path, prefix=other, dataset="scenes/train")

    def compared(second: str, *options: str) -> str:
        arguments = ["r/teacher/multi_turn", second, "--root", str(tmp_path), *options]
        return CliRunner().invoke(compare, arguments, catch_exceptions=False).stdout

    text = compared("r/teacher/single_turn")
    assert "first − second" in text
    assert "  task.mode: multi_turn / single_turn\n" in text
    assert "policy.model" not in text, "what is alike is not told"
    found = json.loads(compared("r/teacher/single_turn", "--json"))
    assert found["settings"]["task.mode"] == ["multi_turn", "single_turn"]
    assert found["overall"]["n"] == len(SCENES)
    assert "asked differently" not in compared("r/teacher/multi_turn")
    with pytest.raises(ConfigError, match=r"of scenes/test and scenes/train"):
        await asyncio.to_thread(compared, "other/teacher/multi_turn")
    with pytest.raises(ConfigError, match="no records of r/nobody/multi_turn"):
        await asyncio.to_thread(compared, "r/nobody/multi_turn")


def test_several_greedy_answers_are_refused_because_they_are_one() -> None:
    with pytest.raises(ConfigError, match=r"samples=4 at temperature 0 .* set a temperature"):
        CliRunner().invoke(evaluate, ["--set", "evaluation.samples=4", "--dry-run"], catch_exceptions=False)
    options = ["--set", "evaluation.samples=4", "--set", "evaluation.temperature=0.5", "--dry-run"]
    assert CliRunner().invoke(evaluate, options).exit_code == 0


def test_scoring_again_is_of_all_shards(tmp_path: Path) -> None:
    refused = CliRunner().invoke(evaluate, ["--rescore", "--shard", "0/2", "--root", str(tmp_path)])
    assert refused.exit_code == 2
    assert "--rescore does not go with --shard" in refused.output
