"""Behaviours by rules, on turns as models write them, and by a judge behind a real endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_run import example_at
from tests.fixtures_openai import Reply, completion, serving
from tests.reward.test_judge import config_of
from vigorl_lib.domain.geometry import Box, Crop, Frame, Point, Size
from vigorl_lib.domain.grammar import Answer, Turn, Zoom, find_points
from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
from vigorl_lib.domain.wire import BACKTRACK_PHRASE
from vigorl_lib.errors import RewardError
from vigorl_lib.evaluation.behaviour_judge import BehaviourJudge, count_all
from vigorl_lib.evaluation.behaviours import (
    Behaviour,
    Behaviours,
    behaviours_of,
    evidence_of,
    reasoning_of,
    summarize_behaviours,
)
from vigorl_lib.storage.base import open_storage

WHERE = Crop(Box(0, 0, 80, 80), Size(112, 112))


def said(*thoughts: str, zooms: tuple[tuple[float, float] | None, ...] = ()) -> Trajectory:
    """One turn a thought; the last answers, the others zoom to their place in `zooms` or say nothing more."""
    turns = []
    for number, thought in enumerate(thoughts):
        at = zooms[number] if number < len(zooms) else None
        action = Zoom(Point(*at)) if at is not None else Answer("pink")
        crop = WHERE if at is not None else None
        turns.append(TurnRecord(Turn(thought, find_points(thought), action), thought, "stop_string", crop=crop))
    return Trajectory("t", "e", "multi_turn", "p", (), tuple(turns), StopReason.ANSWERED, model_size=Size(100, 100))


def test_places_are_counted_once_however_often_they_are_cited() -> None:
    found = behaviours_of(said("The cup at (10, 10) is left of the jar at (50, 50). The cup (12, 11) is red."))
    assert (found.regions, found.points, found.revisits) == (2, 3, 1)
    near = behaviours_of(said("One at (10, 10), again at (15, 10).", "And (16, 12).", zooms=((15, 11),)))
    assert (near.regions, near.revisits, near.zooms) == (1, 0, 1)


@pytest.mark.parametrize(
    ("thought", "expected"),
    [
        ("I will first look at the sign at (10, 10). The sign is red.", (1, 0, 0)),
        ("First, I need to find the table.", (0, 0, 0)),
        ("Let me look at (10, 10). Next, I check the shelf at (40, 40).", (2, 0, 0)),
        ("The cup is red. Let me double-check the cup at (10, 10).", (0, 1, 0)),
        ("To be sure, I compare it with the one at (40, 40). This confirms it.", (0, 2, 0)),
        (f"{BACKTRACK_PHRASE} The jar is at (40, 40).", (0, 0, 1)),
        ("This is not the right sign. I was wrong about the colour.", (0, 0, 1)),
        ("The waiter at (10, 10) waits.", (0, 0, 0)),
        ("It is offset from the wall; the wrong answer is B.", (0, 0, 0)),
    ],
)
def test_subgoals_checks_and_changes_of_mind_are_told_apart(thought: str, expected: tuple[int, int, int]) -> None:
    found = behaviours_of(said(thought))
    assert (found.grounded_subgoals, found.verification, found.backtracking) == expected


def test_a_zoom_is_a_grounded_subgoal_and_each_change_of_mind_counts() -> None:
    wait = f"{BACKTRACK_PHRASE} Over there."
    found = behaviours_of(said("There.", wait, wait, "It is pink.", zooms=((10, 10), (40, 40), (70, 70))))
    assert (found.grounded_subgoals, found.backtracking, found.regions) == (3, 2, 3)


def test_points_are_right_where_the_answer_shows() -> None:
    """The image is 400 x 400, seen at 100 x 100."""
    example = example_at(Box(200, 200, 220, 220))
    found = behaviours_of(said("It is at (52, 52), not (10, 10), nor (500, 1)."), example)
    assert (found.points, found.points_on_evidence, found.regions) == (3, 1, 2)
    assert behaviours_of(said("At (52, 52)."), example_at()).points_on_evidence is None
    boxed = replace(example_at(), truth=replace(example_at().truth, box=Box(0, 0, 60, 60)))
    assert evidence_of(boxed) == (Box(0, 0, 60, 60),)
    assert behaviours_of(said("At (10, 10)."), boxed).points_on_evidence == 1
    corner = (Point(0, 0, Frame.ORIGINAL), Point(60, 0, Frame.ORIGINAL), Point(0, 60, Frame.ORIGINAL))
    slanted = replace(boxed, truth=replace(boxed.truth, region=corner))
    assert behaviours_of(said("At (10, 10) or (1, 1)."), slanted).points_on_evidence == 1


def test_means_are_over_trajectories_and_accuracy_over_those_that_point() -> None:
    one = Behaviours(3, 1, 0, 1, 0, 1, points=4, points_on_evidence=1)
    counted = [
        one,
        replace(one, regions=1),
        replace(one, points=0, points_on_evidence=0),
        replace(one, points_on_evidence=3),
    ]
    means = summarize_behaviours({f"t{number}/0": each for number, each in enumerate(counted)})
    assert (means["regions"].value, means["regions"].n) == (2.5, 4)
    assert means["regions"].low < 2.5 < means["regions"].high
    assert (means["point_accuracy"].value, means["point_accuracy"].n) == (pytest.approx((0.25 + 0.25 + 0.75) / 3), 3)


def test_several_trajectories_of_one_question_are_no_independent_ones() -> None:
    few, many = Behaviours(1, 0, 0, 0, 0, 0, 0, None), Behaviours(5, 0, 0, 0, 0, 0, 0, None)
    apart = summarize_behaviours({f"q{n}/0": many if n % 2 else few for n in range(16)})["regions"]
    twins = summarize_behaviours({f"q{n // 8}/{n % 8}": many if n < 8 else few for n in range(16)})["regions"]
    assert (apart.value, apart.n) == (twins.value, twins.n)
    assert (twins.low, twins.high) == (1.0, 5.0)
    assert twins.low < apart.low < apart.high < twins.high


def test_the_judge_reads_thoughts_and_never_the_answer() -> None:
    text = reasoning_of(said("Look at the left.", "It has a dot.", zooms=((10, 10),)))
    assert text.splitlines() == ["1. Look at the left.", "   (looks closer at (10, 10))", "2. It has a dot."]


@pytest.fixture
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIGORL_OPENAI__API_KEY", "sk-test")


@pytest.mark.usefixtures("_key")
async def test_a_judge_counts_each_behaviour_once_and_is_not_asked_again(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the openai package is not installed (extra openai)")
    asked: list[str] = []

    def counts(body: dict[str, Any]) -> Reply:
        system, text = (str(message["content"]) for message in body["messages"])
        asked.append(text)
        number = 4 if "regions of the image" in system else 1 if "backtracked" in system else 0
        return completion(f"As asked, in the form <count> 9 </count>: <count>{number}</count>")

    items = [("What color?", replace(said(f"Thought {k}."), trajectory_id=f"t/{k}")) for k in range(3)]
    storage = open_storage(str(tmp_path))
    async with serving(counts) as endpoint:
        judge = await asyncio.to_thread(BehaviourJudge.open, config_of(endpoint.url))
        first = await count_all(items[:2], judge, storage=storage, prefix="behaviours")
        assert first[0] == {
            Behaviour.REGIONS: 4,
            Behaviour.GROUNDED_SUBGOALS: 0,
            Behaviour.VERIFICATION: 0,
            Behaviour.BACKTRACKING: 1,
        }
        asked.clear()
        steps: list[tuple[int, int]] = []
        await count_all(
            items, judge, storage=storage, prefix="behaviours", on_progress=lambda *step: steps.append(step)
        )
        await judge.close()
    assert len(asked) == len(Behaviour)
    assert all("Thought 2." in text and "pink" not in text for text in asked)
    assert steps == [(3, 3)]


@pytest.mark.usefixtures("_key")
async def test_what_cannot_be_counted_is_an_error_and_not_zero(tmp_path: Path) -> None:
    pytest.importorskip("openai", reason="the openai package is not installed (extra openai)")

    def counts(body: dict[str, Any]) -> Reply:
        broken = "Thought 1." in str(body["messages"][-1]["content"])
        return completion("none at all" if broken else "<count> 2 </count>")

    items = [("What color?", replace(said(f"Thought {k}."), trajectory_id=f"t/{k}")) for k in range(2)]
    async with serving(counts) as endpoint:
        judge = await asyncio.to_thread(BehaviourJudge.open, config_of(endpoint.url, attempts=2))
        with pytest.raises(RewardError, match=r"1 of 2 trajectories.*JUDGE_UNREADABLE") as failure:
            await count_all(items, judge, storage=open_storage(str(tmp_path)), prefix="behaviours")
        await judge.close()
    assert failure.value.reason == "BEHAVIOURS_INCOMPLETE"
