"""Policies that write points in their own frame: everything behind the step works in the model frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.rollout.support import RESIZE, TASK, ZOOM, WordPolicy, question, said, stepping
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Frame, Point
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.trajectory import InvalidTurn, Origin, Segment, Trajectory
from vigorl_lib.evaluation.run import pointing
from vigorl_lib.policy.base import PolicyInfo
from vigorl_lib.prompts import NORMALIZED_UNIT, PIXEL_UNIT, load_prompt, prompt_names
from vigorl_lib.report.marks import number_points, on_original
from vigorl_lib.report.trajectory import render_trajectory
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.rules import score_trajectory
from vigorl_lib.rollout.run import solve
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.simulate import distinct

UNIT = 112 / 1000
"""Pixels of the model frame in one unit of the normalized frame, for the 448x448 picture of `question`."""
OWN = TASK.model_copy(update={"point_frame": "policy"})
PLACES = [(250.0, 500.0), (750.0, 125.0)]
"""Thousandths of the picture."""


def speaking(frame: Frame, places: Sequence[tuple[float, float]] = PLACES, final: str = "pink") -> WordPolicy:
    """Zooms to the places one after the other, then answers, all in its frame."""

    def point(x: float, y: float) -> Point:
        return Point(x, y) if frame is Frame.NORMALIZED else Point(x * UNIT, y * UNIT)

    def write(prompt: Sequence[Segment], index: int) -> str:
        done = len(said(prompt))
        at = point(*places[min(done, len(places) - 1)])
        seen = f"There ({at.x:g}, {at.y:g})."
        return render_turn(seen, Zoom(at) if done < len(places) else Answer(final))

    return WordPolicy(write, frame=frame)


def example_with(**truth: object) -> Example:
    """The target is around thousandths (750, 125), that is pixel (336, 56) of the original."""
    target = Box(326, 46, 346, 66)
    return replace(question(), truth=GroundTruth("pink", **({"evidence": (target,), "box": target} | truth)))  # type: ignore[arg-type]


async def ran(policy: WordPolicy, task: TaskConfig = OWN, example: Example | None = None) -> Trajectory:
    return await solve(stepping(policy, task), example or example_with(), trajectory_id="r/x/0", seed_path=(0,))


async def both(example: Example, final: tuple[str, str] = ("pink", "pink")) -> tuple[Trajectory, Trajectory]:
    """The same look at the picture by a policy of either frame."""
    return (
        await ran(speaking(Frame.NORMALIZED, final=final[0]), example=example),
        await ran(speaking(Frame.MODEL, final=final[1]), example=example),
    )


async def test_normalized_points_zoom_at_the_right_place() -> None:
    normalized, model = await both(example_with())
    windows = [record.crop.window for record in normalized.turns if record.crop]
    # 28 px of the 112 px view are 112 px of the original, around (112, 224) and (336, 56).
    assert windows == [Box(56, 168, 168, 280), Box(280, 0, 392, 112)]
    assert windows == [record.crop.window for record in model.turns if record.crop]


async def test_turns_are_in_the_model_frame_and_the_conversation_is_as_it_was_said() -> None:
    normalized, model = await both(example_with())
    assert [record.turn for record in normalized.turns] == [record.turn for record in model.turns]
    assert {point.frame for record in normalized.turns for point in record.turn.cited} == {Frame.MODEL}
    assert "(250, 500)" in normalized.turns[0].text
    spoken = [segment for segment in normalized.segments if segment.origin is Origin.POLICY]
    assert [segment.text for segment in spoken] == [record.text for record in normalized.turns]


async def test_marks_metrics_and_rewards_do_not_depend_on_the_frame() -> None:
    example = example_with()
    normalized, model = await both(example)
    size = example.images[0].size
    marks = on_original(normalized, size, example)
    assert marks == on_original(model, size, example)
    assert [(spot.x, spot.y, spot.label) for spot in marks.spots] == [(112, 224, "1"), (336, 56, "2")]
    assert pointing(example, normalized) == pointing(example, model) == (0.0, True)
    config = RewardConfig(distinct_radius_px=20)
    assert score_trajectory(example, normalized, config) == score_trajectory(example, model, config)
    page = render_trajectory(normalized, example.images[0], "it")
    assert page == render_trajectory(model, example.images[0], "it")
    assert all(f"<sup>{label}</sup>" in page for label in number_points(normalized).values())


async def test_an_answer_that_is_a_point_is_judged_where_it_was_meant() -> None:
    example = example_with(kind=AnswerKind.POINT)
    right, _ = await both(example, ("(750, 125)", "(84, 14)"))
    wrong, _ = await both(example, ("(84, 14)", "(84, 14)"))
    assert [score_trajectory(example, one, RewardConfig()).outcome for one in (right, wrong)] == ["correct", "wrong"]


@pytest.mark.parametrize(("apart", "repeated"), [(90, False), (70, True)])
async def test_a_repeated_point_is_measured_in_pixels_of_the_view(apart: float, repeated: bool) -> None:
    zoom = ZOOM.model_copy(update={"min_distance_px": 9.0})
    policy = speaking(Frame.NORMALIZED, [(500, 500), (500 + apart, 500)])
    trajectory = await ran(policy, OWN.model_copy(update={"zoom": zoom}))
    assert [record.invalid for record in trajectory.turns] == [None, InvalidTurn.REPEATED if repeated else None, None]


async def test_the_search_tells_places_apart_in_pixels_of_the_view() -> None:
    policy = WordPolicy(lambda _, index: render_turn("x", Zoom(Point(500 + 50 * index, 500))), frame=Frame.NORMALIZED)
    stepper = stepping(policy, OWN)
    root = await stepper.start(question(), (0,))
    children = await stepper.step(root, 5)
    assert [child.seed_path[-1] for child in distinct(root, children, radius_px=11.0)] == [0, 2, 4]


async def test_a_point_that_is_refused_is_told_in_the_frame_in_which_it_was_written() -> None:
    policy = speaking(Frame.NORMALIZED, [(1333, 300)])
    trajectory = await ran(policy)
    assert trajectory.turns[0].invalid is InvalidTurn.OUTSIDE
    told = next(segment.text for segment in trajectory.segments if segment.origin is Origin.OBSERVATION)
    assert "(1333, 300)" in told


@pytest.mark.parametrize("side", [0.0, 999.0])
async def test_the_edges_of_the_picture_can_be_zoomed_to(side: float) -> None:
    trajectory = await ran(speaking(Frame.NORMALIZED, [(side, side)]))
    assert trajectory.turns[0].crop is not None


WRITTEN = {"family": "visual_search", "zoom": ZOOM}


@pytest.mark.parametrize(
    ("asked", "own", "expected"),
    [
        ("model", Frame.NORMALIZED, Frame.MODEL),
        ("normalized", Frame.MODEL, Frame.NORMALIZED),
        ("policy", Frame.NORMALIZED, Frame.NORMALIZED),
        ("policy", Frame.MODEL, Frame.MODEL),
    ],
)
async def test_a_policy_is_asked_for_points_in_the_tasks_frame_and_read_in_it(
    asked: str, own: Frame, expected: Frame
) -> None:
    policy = speaking(expected)
    policy.frame = own
    trajectory = await ran(policy, TaskConfig.model_validate(WRITTEN | {"point_frame": asked}))
    prompt = policy.calls[0].prompt[0].text
    assert (PIXEL_UNIT in prompt, NORMALIZED_UNIT in prompt) == (expected is Frame.MODEL, expected is Frame.NORMALIZED)
    crop = trajectory.turns[0].crop
    assert isinstance(crop, Crop)
    assert crop.window.center == Point(112, 224, Frame.ORIGINAL)


@pytest.mark.parametrize("name", prompt_names())
def test_a_prompt_names_one_unit_and_only_that_of_its_frame(name: str) -> None:
    pixels, thousandths = (load_prompt(*name.split("/"), frame).text for frame in (Frame.MODEL, Frame.NORMALIZED))
    assert "pixel" not in thousandths
    assert thousandths.replace(NORMALIZED_UNIT, PIXEL_UNIT) == pixels
    assert (PIXEL_UNIT in pixels) == ("(x, y)" in pixels)
    numbers = [number for pair in re.findall(r"\((\d+), (\d+)\)", pixels) for number in pair]
    assert all(int(number) < 1000 for number in numbers), "its examples are points in either frame"


def test_prompts_ask_for_pixels_unless_a_task_says_otherwise() -> None:
    assert TaskConfig().frame_for(info(Frame.NORMALIZED)) is Frame.MODEL


def test_a_script_writes_in_its_own_frame_whatever_it_is_asked() -> None:
    task = TASK.model_copy(update={"point_frame": "normalized"})
    assert task.frame_for(info(Frame.MODEL, scripted=True)) is Frame.MODEL
    assert task.frame_for(info(Frame.MODEL)) is Frame.NORMALIZED


def info(frame: Frame, *, scripted: bool = False) -> PolicyInfo:
    return PolicyInfo("one", "words", "", "", 0, False, False, scripted, 4096, RESIZE, point_frame=frame)
