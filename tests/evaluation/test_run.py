from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.rollout.support import TASK, ZOOM, WordPolicy, answer, question, said, stepping, zoom
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Point, Size
from vigorl_lib.domain.grammar import Answer, Continue, Turn, Zoom
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import ConfigError, PolicyError, RewardError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import evaluate, pointing, read_kept_trajectories, read_records
from vigorl_lib.reward.base import Reward, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.rules import LocalReward
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import read_segments

PREFIX = "runs/r/evaluation/words/multi_turn"


def about(prompt: Sequence[Segment]) -> str:
    return prompt[0].text.rsplit(" ", 1)[1]


def written(prompt: Sequence[Segment], index: int) -> str:
    """Looks once, then knows of the even examples."""
    if not said(prompt):
        return zoom()
    return answer("pink" if int(about(prompt)[1]) % 2 == 0 else "cyan")


def questions(count: int) -> list[Example]:
    return [question(f"e{k}") for k in range(count)]


async def run(
    storage: FolderStorage,
    policy: WordPolicy,
    examples: Sequence[Example],
    *,
    reward: Reward | None = None,
    task: TaskConfig = TASK,
    seed: int = 0,
    keep: int = 0,
) -> tuple[list[SampleRecord], list[tuple[int, int, int]]]:
    seen: list[tuple[int, int, int]] = []
    records = await evaluate(
        examples,
        stepping(policy, task),
        reward or LocalReward(),
        RewardConfig(),
        storage=storage,
        prefix=PREFIX,
        seed=seed,
        max_in_flight=4,
        on_sample=lambda *counts: seen.append(counts),
        keep_trajectories=keep,
    )
    return records, seen


async def test_every_example_is_measured_and_told_of_in_order(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    records, seen = await run(storage, WordPolicy(written), questions(6))
    assert [record.example_id for record in records] == [f"e{k}" for k in range(6)]
    assert [record.correct for record in records] == [True, False] * 3
    assert {(record.stop, record.turns, record.zooms) for record in records} == {("answered", 2, 1)}
    assert seen == [(k, 6, 0) for k in range(1, 7)]
    assert sorted(read_records(storage, PREFIX), key=lambda r: r.example_id) == records


async def test_what_is_recorded_is_not_asked_again(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    first, _ = await run(storage, WordPolicy(written), questions(3))
    policy = WordPolicy(written)
    records, seen = await run(storage, policy, questions(5))
    assert {about(call.prompt) for call in policy.calls} == {"e3?", "e4?"}
    assert records[:3] == first
    assert seen == [(4, 5, 0), (5, 5, 0)]
    idle = WordPolicy(written)
    fewer, seen = await run(storage, idle, questions(2))
    assert (fewer, seen, idle.calls) == (first[:2], [], [])


async def test_a_failing_policy_leaves_the_evaluation_incomplete_until_it_is_done_again(tmp_path: Path) -> None:
    broken = True

    def flaky(prompt: Sequence[Segment], index: int) -> str:
        if broken and about(prompt) in ("e1?", "e3?"):
            raise PolicyError("unreachable", reason="UNAVAILABLE", infrastructure=True)
        return written(prompt, index)

    storage = FolderStorage(tmp_path)
    with pytest.raises(PolicyError, match=r"2 of 5 samples failed, first e[13]: UNAVAILABLE: unreachable") as caught:
        await run(storage, WordPolicy(flaky), questions(5))
    assert caught.value.reason == "EVALUATION_INCOMPLETE"
    assert caught.value.metadata["failed"] == "2"
    assert {record.example_id for record in read_records(storage, PREFIX)} == {"e0", "e2", "e4"}, "a failure is no answer"
    broken = False
    records, _ = await run(storage, WordPolicy(flaky), questions(5))
    assert [record.correct for record in records] == [True, False, True, False, True]


@pytest.mark.parametrize("infrastructure", [True, False])
async def test_a_failing_reward_leaves_the_evaluation_incomplete(tmp_path: Path, infrastructure: bool) -> None:
    class Unreachable(LocalReward):
        async def score(
            self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
        ) -> list[Score | Exception]:
            if items[0][0].example_id == "e1":
                error = RewardError("away", reason="UNAVAILABLE", infrastructure=infrastructure)
                if infrastructure:
                    raise error
                return [error]
            return await super().score(items, config=config)

    storage = FolderStorage(tmp_path)
    with pytest.raises(PolicyError, match="1 of 3 samples failed, first e1: UNAVAILABLE: away"):
        await run(storage, WordPolicy(written), questions(3), reward=Unreachable())
    assert len(read_records(storage, PREFIX)) == 2


async def test_a_bug_is_not_a_failed_sample(tmp_path: Path) -> None:
    def buggy(prompt: Sequence[Segment], index: int) -> str:
        raise KeyError("oops")

    with pytest.raises(KeyError):
        await run(FolderStorage(tmp_path), WordPolicy(buggy), questions(2))


async def test_records_made_in_another_way_are_refused(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    await run(storage, WordPolicy(written), questions(2))
    settings = json.loads(storage.read(f"{PREFIX}/settings.json"))
    assert settings["seed"] == 0
    assert settings["policy"]["name"] == "words"
    other = TASK.model_copy(update={"zoom": ZOOM.model_copy(update={"shown_px": 56})})
    with pytest.raises(ConfigError, match="another task and seed") as caught:
        await run(storage, WordPolicy(written), questions(2), task=other, seed=1)
    assert caught.value.reason == "EVALUATION_DIFFERS"
    assert caught.value.metadata["changed"] == "task,seed"


async def test_the_first_trajectories_are_kept_with_their_pictures(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    await run(storage, WordPolicy(written), questions(4), keep=2)
    kept = sorted(read_kept_trajectories(storage, PREFIX), key=lambda trajectory: trajectory.example_id)
    assert [trajectory.example_id for trajectory in kept] == ["e0", "e1"]
    assert [trajectory.outcome for trajectory in kept] == ["correct", "wrong"]
    assert kept[0].reward is not None
    crop = kept[0].turns[0].crop_image
    assert crop is not None
    assert ImageStore(storage).load(crop).data is not None


def test_of_an_example_recorded_twice_the_first_counts(tmp_path: Path) -> None:
    from dataclasses import asdict

    from tests.evaluation.test_metrics import sample
    from vigorl_lib.storage.segments import SegmentWriter

    storage = FolderStorage(tmp_path)
    with SegmentWriter(storage, PREFIX) as writer:
        for correct in (True, False):
            writer.append({"sample": asdict(sample("e0", correct))})
    assert len(list(read_segments(storage, PREFIX))) == 2
    (record,) = read_records(storage, PREFIX)
    assert record.correct


IMAGE = Image("0" * 64, "image/png", Size(448, 448))
EVIDENCE = Box(40, 40, 60, 60)
"""Its middle is (12.5, 12.5) in the model frame of 112x112."""
SEARCHED = Example("e", "What?", (IMAGE,), GroundTruth("pink", evidence=(EVIDENCE,)))


def turns(*records: TurnRecord, model: Size | None = Size(112, 112)) -> Trajectory:
    return Trajectory("r/e/0", "e", "multi_turn", "p", (), records, StopReason.ANSWERED, model_size=model)


def cited(*points: Point) -> TurnRecord:
    return TurnRecord(Turn("x", points, Answer("pink")), "", "")


def zoomed(point: Point, window: Box) -> TurnRecord:
    return TurnRecord(Turn("x", (), Zoom(point)), "", "", crop=Crop(window, Size(112, 112)))


SHOWS, SHOWS_NOT = Box(0, 0, 56, 56), Box(60, 60, 116, 116)


@pytest.mark.parametrize(
    ("trajectory", "error", "hit"),
    [
        (turns(cited(Point(12.5, 12.5))), 0.0, True),
        (turns(cited(Point(90, 90), Point(12.5, 16))), 3.5, False),
        (turns(cited(Point(12.5, 13.5))), 1.0, True),
        (turns(zoomed(Point(12.5, 16.5), SHOWS)), 4.0, True),
        (turns(zoomed(Point(12.5, 22.5), SHOWS_NOT)), 10.0, False),
        (turns(zoomed(Point(90, 90), SHOWS_NOT), zoomed(Point(12.5, 12.5), SHOWS)), 0.0, True),
        (turns(zoomed(Point(12.5, 16.5), SHOWS), cited(Point(90, 90))), 4.0, True),
    ],
    ids=["point on", "last point counts", "point near", "crop shows", "crop does not", "last crop counts", "crop first"],
)
def test_pointing_is_measured_by_the_last_zoom_else_by_the_last_point(
    trajectory: Trajectory, error: float, hit: bool
) -> None:
    assert pointing(SEARCHED, trajectory) == (pytest.approx(error), hit)


def test_who_points_nowhere_hits_nothing_and_has_no_error() -> None:
    assert pointing(SEARCHED, turns(cited())) == (None, False)
    unasked = Example("e", "What?", (IMAGE,), GroundTruth("pink"))
    assert pointing(unasked, turns(cited(Point(1, 1)))) == (None, None)
    assert pointing(SEARCHED, turns(cited(Point(1, 1)), model=None)) == (None, None)
    refused = TurnRecord(Turn("x", (), Continue()), "", "")
    assert pointing(SEARCHED, turns(refused)) == (None, False)
