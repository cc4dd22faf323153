from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, FrameMap, Point, Size
from vigorl_lib.domain.grammar import Action, Answer, Malformed, MalformedReason, Turn, Zoom, find_points
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import InvalidTurn, StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import RewardError
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.reward.rules import distinct_points, score_trajectory

ORIGINAL, MODEL = Size(1120, 1120), Size(112, 112)
FRAMES = FrameMap(ORIGINAL, MODEL)
EXAMPLE = Example("e", "What?", (Image("0" * 64, "image/png", ORIGINAL),), GroundTruth("pink"))
PAPER = RewardConfig()


def turn(thought: str, action: Action, invalid: InvalidTurn | None = None) -> TurnRecord:
    return TurnRecord(Turn(thought, find_points(thought), action), "", "stop_string", invalid=invalid)


def trajectory(*turns: TurnRecord, stop: StopReason = StopReason.ANSWERED) -> Trajectory:
    return Trajectory("r/e/0", "e", "multi_turn", "p", (), turns, stop, model_size=MODEL)


LOOK = turn("At (10, 10).", Zoom(Point(50, 50)))
RIGHT, WRONG = turn("So (90, 90).", Answer("pink")), turn("So (90, 90).", Answer("cyan"))


def test_the_paper_pays_sixty_forty_and_twenty_of_the_format_a_point() -> None:
    score = score_trajectory(EXAMPLE, trajectory(LOOK, RIGHT), PAPER)
    assert score.parts == {"answer": 1.0, "format": 1.0, "distinct": 2.0}
    assert score.total == pytest.approx(0.6 + 0.4 * (1 + 0.2 * 2))
    assert score.outcome is RewardOutcome.CORRECT
    assert score.correct


@pytest.mark.parametrize(("when", "right", "wrong"), [("correct", 2.0, 0.0), ("always", 2.0, 2.0), ("never", 0.0, 0.0)])
def test_when_distinct_points_are_paid_is_an_option(when: str, right: float, wrong: float) -> None:
    config = RewardConfig.model_validate({"distinct_when": when})
    assert score_trajectory(EXAMPLE, trajectory(LOOK, RIGHT), config).parts["distinct"] == right
    assert score_trajectory(EXAMPLE, trajectory(LOOK, WRONG), config).parts["distinct"] == wrong


def test_distinct_points_are_paid_up_to_a_cap() -> None:
    many = turn(" ".join(f"({10 * k}, 10)" for k in range(1, 10)), Answer("pink"))
    assert score_trajectory(EXAMPLE, trajectory(many), PAPER).parts["distinct"] == 4.0
    uncapped = score_trajectory(EXAMPLE, trajectory(many), RewardConfig(distinct_cap=99))
    assert uncapped.parts["distinct"] == 8.0


def test_points_outside_the_image_earn_nothing() -> None:
    outside = turn("At (10, 10), (-20, 5), (112, 5) and (500, 500).", Answer("pink"))
    assert score_trajectory(EXAMPLE, trajectory(outside), PAPER).parts["distinct"] == 0.0


def test_points_are_kept_greedily_in_order() -> None:
    # The second is too near to the first and so does not keep the third away.
    assert distinct_points([Point(0, 0), Point(9, 0), Point(18, 0)], 10, FRAMES) == 2
    assert distinct_points([Point(9, 0), Point(0, 0), Point(18, 0)], 10, FRAMES) == 1
    assert distinct_points([Point(0, 0), Point(6, 8)], 10, FRAMES) == 2, "at the radius they are apart"


@given(
    points=st.lists(st.builds(Point, st.floats(-50, 200), st.floats(-50, 200)), max_size=12),
    radius=st.floats(0.1, 80),
)
def test_distinct_points_are_never_more_than_fit(points: list[Point], radius: float) -> None:
    inside = [point for point in points if FRAMES.inside(point)]
    found = distinct_points(points, radius, FRAMES)
    assert (found > 0) == bool(inside)
    assert found <= len(inside)
    assert distinct_points([*points, *points], radius, FRAMES) == found, "a repeat is not distinct"


@pytest.mark.parametrize(
    "bad",
    [
        trajectory(LOOK, stop=StopReason.MAX_TURNS),
        trajectory(LOOK, RIGHT, stop=StopReason.MAX_TOKENS),
        trajectory(turn("x", Malformed(MalformedReason.NO_ACTION, ""), InvalidTurn.MALFORMED), RIGHT),
        trajectory(turn("At (10, 10).", Zoom(Point(500, 5)), InvalidTurn.OUTSIDE), RIGHT),
        trajectory(turn("At (10, 10).", Zoom(Point(50, 50)), InvalidTurn.REPEATED), RIGHT),
        trajectory(turn("No point.", Answer("pink"))),
        trajectory(),
    ],
    ids=["unfinished", "cut", "malformed", "outside", "repeated", "ungrounded", "empty"],
)
def test_a_trajectory_out_of_form_gets_neither_format_nor_bonus(bad: Trajectory) -> None:
    score = score_trajectory(EXAMPLE, bad, RewardConfig(distinct_when="always"))
    assert score.parts["format"] == score.parts["distinct"] == 0.0
    assert score.total == pytest.approx(0.6 * score.parts["answer"])


def test_a_point_is_required_only_where_asked_for() -> None:
    plain = trajectory(turn("No point.", Answer("pink")))
    assert score_trajectory(EXAMPLE, plain, RewardConfig(require_point=False)).total == 1.0
    zoomed = trajectory(turn("There.", Zoom(Point(5, 5))), turn("So.", Answer("pink")))
    assert score_trajectory(EXAMPLE, zoomed, PAPER).parts["format"] == 1.0, "a zoom points, too"


def test_wrong_malformed_and_missing_answers_are_told_apart() -> None:
    choice = replace(EXAMPLE, truth=GroundTruth("pink", AnswerKind.CHOICE, choices=("pink", "cyan")))
    outcomes = [
        score_trajectory(choice, one, PAPER).outcome
        for one in (
            trajectory(LOOK, RIGHT),
            trajectory(LOOK, WRONG),
            trajectory(LOOK, turn("x", Answer("a lorry"))),
            trajectory(LOOK, stop=StopReason.MAX_TURNS),
            trajectory(RIGHT, stop=StopReason.MAX_TOKENS),
        )
    ]
    assert [outcome.value for outcome in outcomes] == ["correct", "wrong", "malformed", "no_answer", "no_answer"]


def test_a_point_is_judged_where_the_policy_saw_it() -> None:
    truth = GroundTruth("", AnswerKind.POINT, box=Box(400, 400, 600, 600))
    pointing = replace(EXAMPLE, truth=truth)
    hit = trajectory(turn("Here.", Answer("(50, 50)")))
    assert score_trajectory(pointing, hit, PAPER).outcome is RewardOutcome.CORRECT
    larger = replace(hit, model_size=Size(56, 56))
    assert score_trajectory(pointing, larger, PAPER).outcome is RewardOutcome.WRONG


async def test_an_item_that_cannot_be_scored_harms_no_other() -> None:
    broken = replace(EXAMPLE, truth=GroundTruth("pink", AnswerKind.CHOICE))
    answered = trajectory(LOOK, RIGHT)
    reward = LocalReward()
    first, second, third = await reward.score(
        [(EXAMPLE, answered), (broken, answered), (EXAMPLE, answered)], config=PAPER
    )
    await reward.close()
    assert isinstance(first, Score)
    assert isinstance(second, RewardError)
    assert second.reason == "TRUTH_INCOMPLETE"
    assert third == first


def test_evidence_is_a_part_where_it_is_known_and_pays_what_it_is_worth() -> None:
    seen = replace(EXAMPLE, truth=GroundTruth("pink", evidence=(Box(880, 880, 920, 920),)))
    pointed = score_trajectory(seen, trajectory(LOOK, RIGHT), RewardConfig(evidence_weight=0.5))
    assert pointed.parts["evidence"] == 1.0
    assert pointed.total == pytest.approx(0.6 + 0.4 * 1.4 + 0.5 * 1.0)
    elsewhere = score_trajectory(
        seen, trajectory(turn("At (10, 10).", Answer("pink"))), RewardConfig(evidence_weight=0.5)
    )
    assert elsewhere.parts["evidence"] == 0.0
    assert "evidence" not in score_trajectory(EXAMPLE, trajectory(LOOK, RIGHT), PAPER).parts
