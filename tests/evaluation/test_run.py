"""Measuring a policy: real teacher, real zoom environment, real rewards, records in a folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.evaluation.support import PERFECT, measure, scenes, teacher, watched
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Point, Size
from vigorl_lib.domain.grammar import Answer, Turn, Zoom
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import ConfigError, PolicyError, RewardError
from vigorl_lib.evaluation.metrics import accuracy
from vigorl_lib.evaluation.run import EvaluationProgress, pointing, read_kept_trajectories, read_records
from vigorl_lib.evaluation.table import render_table
from vigorl_lib.reward.base import Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.search.shards import Shard
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter

SCENES = scenes(6)


async def test_a_teacher_that_never_errs_gets_everything_right(tmp_path: Path) -> None:
    records = await measure(SCENES, teacher(SCENES, direct_rate=0.0, **PERFECT), tmp_path)
    assert [record.example_id for record in records] == [example.example_id for example in SCENES]
    assert accuracy(records).value == 1.0
    assert all(record.zooms == 1 and record.hit and record.stop == "answered" for record in records)
    # Points are said in bins of four pixels.
    assert all(record.point_error_px is not None and record.point_error_px < 3.0 for record in records)
    assert {record.tags["size"] for record in records} == {"small", "large"}


async def test_a_teacher_that_always_errs_gets_nothing_right(tmp_path: Path) -> None:
    rates = {**PERFECT, "error_rate": 1.0, "unseen_error_rate": 1.0, "direct_rate": 1.0}
    records = await measure(SCENES, teacher(SCENES, **rates), tmp_path)
    assert {record.outcome for record in records} == {"wrong"}
    assert {record.zooms for record in records} == {0}


async def test_called_again_it_asks_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = await measure(SCENES, teacher(SCENES), tmp_path)
    policy = watched(SCENES)
    again = await measure(SCENES, policy, tmp_path)
    assert policy.asked == []
    assert again == first


async def test_a_cut_off_evaluation_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    await measure(SCENES[:4], teacher(SCENES), tmp_path)
    policy = watched(SCENES)
    records = await measure(SCENES, policy, tmp_path)
    assert set(policy.asked) == {example.example_id for example in SCENES[4:]}
    assert records == await measure(SCENES, teacher(SCENES), tmp_path / "whole")


async def test_shards_under_one_prefix_make_the_table_of_one_process(tmp_path: Path) -> None:
    whole = await measure(SCENES, teacher(SCENES), tmp_path / "whole", keep=3)
    for index in range(3):
        await measure(SCENES, teacher(SCENES), tmp_path / "shards", keep=3, shard=Shard(index, 3))
    storage = open_storage(str(tmp_path / "shards"))
    records = sorted(read_records(storage, "evaluation"), key=lambda r: r.example_id)
    assert records == whole
    kept = {trajectory.example_id for trajectory in read_kept_trajectories(storage, "evaluation")}
    assert kept == {example.example_id for example in SCENES[:3]}
    assert render_table({("p", "m"): records}) == render_table({("p", "m"): whole})
    assert records == await measure(SCENES, watched(SCENES, [e.example_id for e in SCENES]), tmp_path / "shards")


async def test_records_of_another_data_set_are_not_mixed_in(tmp_path: Path) -> None:
    await measure(SCENES[:2], teacher(SCENES), tmp_path, dataset="scenes/test")
    with pytest.raises(ConfigError, match="another dataset"):
        await measure(SCENES, teacher(SCENES), tmp_path, dataset="scenes/validation")


async def test_failed_samples_are_no_wrong_answers_and_are_asked_again(tmp_path: Path) -> None:
    failing = [SCENES[1].example_id, SCENES[3].example_id]
    with pytest.raises(PolicyError, match=r"2 of 6 samples failed.*ENGINE_FAILED") as failure:
        await measure(SCENES, watched(SCENES, failing), tmp_path)
    assert failure.value.reason == "EVALUATION_INCOMPLETE"
    assert len(read_records(open_storage(str(tmp_path)), "evaluation")) == 4
    policy = watched(SCENES)
    assert len(await measure(SCENES, policy, tmp_path)) == 6
    assert set(policy.asked) == set(failing)


@pytest.mark.parametrize("raised", [True, False])
async def test_a_reward_that_fails_leaves_its_sample_to_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: bool
) -> None:
    unscored = LocalReward.score

    async def score(
        self: LocalReward, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        if items[0][0] is not SCENES[1]:
            return await unscored(self, items, config=config)
        error = RewardError("away", reason="UNAVAILABLE", infrastructure=raised)
        if raised:
            raise error
        return [error]

    monkeypatch.setattr(LocalReward, "score", score)
    with pytest.raises(PolicyError, match=r"1 of 3 samples failed, first scene-001: UNAVAILABLE: away"):
        await measure(SCENES[:3], teacher(SCENES), tmp_path)
    assert len(read_records(open_storage(str(tmp_path)), "evaluation")) == 2


async def test_the_judge_of_an_answer_stands_in_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unjudged = LocalReward.score

    async def score(
        self: LocalReward, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        scores = await unjudged(self, items, config=config)
        return [replace(one, judged_by="judge@r7/0") if isinstance(one, Score) else one for one in scores]

    monkeypatch.setattr(LocalReward, "score", score)
    records = await measure(SCENES[:1], teacher(SCENES), tmp_path)
    assert [record.judged_by for record in records] == ["judge@r7/0"]
    assert read_records(open_storage(str(tmp_path)), "evaluation") == records


async def test_our_own_mistake_is_not_taken_for_a_failed_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("vigorl_lib.evaluation.run.pointing", mistaken)
    with pytest.raises(KeyError):
        await measure(SCENES[:2], teacher(SCENES), tmp_path)


async def test_fewer_examples_are_counted_without_the_records_of_the_others(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    first = await measure(SCENES[:3], teacher(SCENES), storage)
    storage.create("smaller/settings.json", storage.read("evaluation/settings.json"))
    with SegmentWriter(storage, "smaller") as writer:
        writer.append({"sample": asdict(first[0])})
        writer.append({"sample": asdict(replace(first[0], correct=not first[0].correct))})
        writer.append({"sample": asdict(first[2])})
    seen: list[EvaluationProgress] = []
    found = await measure(SCENES[:2], teacher(SCENES), storage, prefix="smaller", on_sample=seen.append)
    assert found == first[:2], "of an example recorded twice the first counts"
    assert seen == [EvaluationProgress(1, 2, 0, 1, found[0]), EvaluationProgress(2, 2, 0, 1, found[1])]


async def test_an_unreadable_picture_harms_no_other_sample(tmp_path: Path) -> None:
    broken = replace(SCENES[0].images[0], data=b"no picture", sha256="0" * 64)
    examples = [replace(SCENES[0], images=(broken,)), *SCENES[1:]]
    with pytest.raises(PolicyError, match=r"1 of 6 samples failed, first scene-000: IMAGE_UNREADABLE"):
        await measure(examples, teacher(SCENES), tmp_path)
    assert len(read_records(open_storage(str(tmp_path)), "evaluation")) == 5


async def test_records_of_another_way_of_asking_are_not_mixed_in(tmp_path: Path) -> None:
    await measure(SCENES[:2], teacher(SCENES), tmp_path)
    with pytest.raises(ConfigError, match="another seed") as failure:
        await measure(SCENES, teacher(SCENES), tmp_path, seed=1)
    assert failure.value.reason == "EVALUATION_DIFFERS"
    with pytest.raises(ConfigError, match="another task and prompt_sha256"):
        await measure(SCENES, teacher(SCENES), tmp_path, mode="single_turn")


async def test_an_evaluation_in_which_all_failed_does_not_stand_in_the_way_of_the_mended_one(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="2 of 2 samples failed"):
        await measure(SCENES[:2], watched(SCENES, [e.example_id for e in SCENES]), tmp_path, dataset="scenes/test")
    records = await measure(SCENES[:2], teacher(SCENES), tmp_path, dataset="scenes/validation", seed=1)
    assert len(records) == 2
    assert json.loads((tmp_path / "evaluation" / "settings.json").read_text())["dataset"] == "scenes/validation"


async def test_of_two_that_begin_at_once_in_other_ways_only_one_records(tmp_path: Path) -> None:
    results = await asyncio.gather(
        *(measure(SCENES, teacher(SCENES), tmp_path, seed=seed) for seed in (0, 1)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, ConfigError)]
    assert [error.reason for error in refused] == ["EVALUATION_DIFFERS"]
    assert len(read_records(open_storage(str(tmp_path)), "evaluation")) == len(SCENES)


async def test_how_it_was_asked_stands_beside_the_records(tmp_path: Path) -> None:
    await measure(SCENES[:1], teacher(SCENES), tmp_path)
    settings = json.loads((tmp_path / "evaluation" / "settings.json").read_text())
    assert settings["policy"]["name"] == "scripted-teacher"
    assert settings["task"]["zoom"]["window_model_px"] == 14
    assert settings["resize"]["factor"] == 28


async def test_kept_trajectories_come_with_their_score_and_their_crops(tmp_path: Path) -> None:
    await measure(SCENES, teacher(SCENES, direct_rate=0.0, **PERFECT), tmp_path, keep=3)
    storage = open_storage(str(tmp_path))
    kept = read_kept_trajectories(storage, "evaluation")
    assert sorted(trajectory.example_id for trajectory in kept) == [e.example_id for e in SCENES[:3]]
    assert all(trajectory.outcome == "correct" and trajectory.reward_parts["answer"] == 1.0 for trajectory in kept)
    crop = kept[0].turns[0].crop_image
    assert crop is not None
    assert ImageStore(storage).load(crop).data


def answered(*turns: TurnRecord) -> Trajectory:
    """A trajectory whose policy saw a picture of 400 x 400 at 100 x 100."""
    return Trajectory("t", "e", "multi_turn", "p", (), turns, StopReason.ANSWERED, model_size=Size(100, 100))


def example_at(*evidence: Box) -> Example:
    truth = GroundTruth("pink", evidence=evidence)
    return replace(SCENES[0], images=(Image("0" * 64, "image/png", Size(400, 400)),), truth=truth)


TARGET = Box(200, 200, 220, 220)
ANSWER = TurnRecord(Turn("", (), Answer("pink")), "", "stop_string")


def zoomed(x: float, y: float, window: Box) -> TurnRecord:
    return TurnRecord(Turn("", (), Zoom(Point(x, y))), "", "stop_string", crop=Crop(window, Size(112, 112)))


def test_the_last_zoom_is_measured_in_pixels_of_the_view() -> None:
    astray, on_target = zoomed(10, 10, Box(0, 0, 80, 80)), zoomed(55.5, 52.5, Box(180, 180, 260, 260))
    error, hit = pointing(example_at(TARGET), answered(astray, on_target, ANSWER))
    assert error == pytest.approx(3.0)
    assert hit is True
    assert pointing(example_at(TARGET), answered(on_target, astray, ANSWER))[1] is False


def test_without_a_zoom_a_point_must_lie_on_the_evidence() -> None:
    cited = replace(ANSWER, turn=Turn("", (Point(51, 51), Point(58, 52.5)), Answer("pink")))
    error, hit = pointing(example_at(TARGET), answered(cited))
    assert error == pytest.approx(5.5)
    assert hit is False
    assert pointing(example_at(Box(225, 200, 240, 220)), answered(cited))[1] is True


def test_any_of_several_regions_will_do_and_a_point_questions_box_is_one() -> None:
    far = Box(0, 0, 4, 4)
    cited = replace(ANSWER, turn=Turn("", (Point(52.5, 52.5),), Answer("pink")))
    assert pointing(example_at(far, TARGET), answered(cited)) == (0.0, True)
    assert pointing(example_at(far, TARGET), answered(zoomed(52.5, 52.5, Box(180, 180, 260, 260)), ANSWER))[1] is True
    boxed = replace(example_at(), truth=GroundTruth("", AnswerKind.POINT, box=TARGET))
    assert pointing(boxed, answered(cited)) == (0.0, True)


def test_pointing_is_unknown_without_evidence_and_missed_without_a_point() -> None:
    assert pointing(example_at(), answered(ANSWER)) == (None, None)
    assert pointing(example_at(TARGET), answered(ANSWER)) == (None, False)
