"""The scripted teacher: honest about being one, exploring, erring at its rates."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.models.support import observation, prompt, said
from vigorl_lib.data.datasets_synthetic import scene_example
from vigorl_lib.data.synthetic import make_scene
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap, Point
from vigorl_lib.domain.grammar import MODES, MULTI_TURN, Answer, Continue, Turn, Zoom, parse_turn
from vigorl_lib.domain.trajectory import Origin, Segment
from vigorl_lib.domain.wire import BACKTRACK_PHRASE, FORCED_ANSWER_PREFIX
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.policy.base import FinishReason, Sampling
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.policy.scripted import ScriptedTeacher

SMALL, LARGE = (scene_example(make_scene(seed), f"example-{seed}") for seed in (0, 1))
SEEDS = range(400)


def teacher(**settings: object) -> ScriptedTeacher:
    scripted = ScriptedConfig.model_validate({"root": "data", **settings})
    config = PolicyConfig(name="scripted-teacher", engine="scripted", model="student", scripted=scripted)
    return ScriptedTeacher([SMALL, LARGE], config, RESIZE)


def asked(example: Example) -> tuple[Segment, ...]:
    return (prompt(example.images[0].without_data(), example.question),)


async def turns(policy: ScriptedTeacher, conversation: tuple[Segment, ...], mode: str = "multi_turn") -> list[Turn]:
    result = await policy.generate(conversation, seeds=SEEDS, sampling=Sampling())
    assert all(completion.token_ids == () for completion in result.completions)
    return [parse_turn(completion.text, MODES[mode], strict=True) for completion in result.completions]


def on_target(example: Example, point: Point, margin: float = 28.0) -> bool:
    frames = FrameMap(example.images[0].size, RESIZE.model_size(example.images[0].size))
    return frames.point(point, Frame.ORIGINAL).distance(example.truth.evidence[0].center) < margin


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


async def test_first_turns_answer_zoom_and_stray_at_their_rates() -> None:
    policy = teacher(direct_rate=0.3, distractor_rate=0.2, point_noise_px=0.0)
    first = await turns(policy, asked(SMALL))
    zooms = [turn.action.point for turn in first if isinstance(turn.action, Zoom)]
    assert len(zooms) + sum(isinstance(turn.action, Answer) for turn in first) == len(first)
    assert share([isinstance(turn.action, Answer) for turn in first]) == pytest.approx(0.3, abs=0.07)
    assert share([not on_target(SMALL, point) for point in zooms]) == pytest.approx(0.2 / 0.7, abs=0.08)
    assert all(0 <= point.x < 112 and 0 <= point.y < 112 for point in zooms)


async def test_points_scatter_around_the_target_in_bins() -> None:
    first = await turns(teacher(direct_rate=0.0, distractor_rate=0.0, point_noise_px=2.0), asked(SMALL))
    points = {turn.cited[-1] for turn in first}
    assert len(points) > 4
    assert all(point.x % 4 == 2 and point.y % 4 == 2 for point in points)
    assert share([on_target(SMALL, turn.cited[-1]) for turn in first]) > 0.9


async def test_after_a_look_at_the_target_it_answers_and_errs_at_its_rate() -> None:
    policy = teacher(direct_rate=0.0, distractor_rate=0.0, error_rate=0.2)
    first = await policy.generate(asked(SMALL), seeds=[1], sampling=Sampling())
    conversation = (*asked(SMALL), said(Origin.POLICY, first.completions[0].text), observation(LARGE.images[0]))
    answers = [turn.action for turn in await turns(policy, conversation)]
    assert all(isinstance(action, Answer) for action in answers)
    right = [isinstance(action, Answer) and action.text == SMALL.truth.answer for action in answers]
    assert share(right) == pytest.approx(0.8, abs=0.07)


async def test_after_a_look_alike_it_says_so_and_zooms_on_the_target() -> None:
    policy = teacher(direct_rate=0.0, distractor_rate=1.0, point_noise_px=0.0)
    first = await policy.generate(asked(SMALL), seeds=[1], sampling=Sampling())
    astray = parse_turn(first.completions[0].text, MULTI_TURN)
    assert isinstance(astray.action, Zoom)
    assert not on_target(SMALL, astray.action.point)
    conversation = (*asked(SMALL), said(Origin.POLICY, first.completions[0].text), observation(LARGE.images[0]))
    for turn in await turns(policy, conversation):
        assert turn.thought.startswith(BACKTRACK_PHRASE)
        assert isinstance(turn.action, Zoom)
        assert on_target(SMALL, turn.action.point)


async def test_without_a_look_it_errs_on_small_targets_at_a_rate_of_their_own() -> None:
    policy = teacher(mode="single_turn", error_rate=0.0, unseen_error_rate=0.75)
    for example, rate in ((SMALL, 0.25), (LARGE, 1.0)):
        actions = [turn.action for turn in await turns(policy, asked(example), "single_turn")]
        right = [isinstance(action, Answer) and action.text == example.truth.answer for action in actions]
        assert share(right) == pytest.approx(rate, abs=0.07)


async def test_thought_steps_think_first_and_answer_next() -> None:
    policy = teacher(mode="thought_steps", error_rate=0.0)
    first = (await turns(policy, asked(LARGE), "thought_steps"))[0]
    assert isinstance(first.action, Continue)
    assert len(first.points) == 1
    conversation = (*asked(LARGE), said(Origin.POLICY, f"<think> {first.thought} </think>"))
    assert {turn.action for turn in await turns(policy, conversation, "thought_steps")} == {Answer(LARGE.truth.answer)}


async def test_a_forced_answer_is_completed() -> None:
    conversation = (*asked(LARGE), said(Origin.FORCED, FORCED_ANSWER_PREFIX))
    result = await teacher(error_rate=0.0).generate(conversation, seeds=[3], sampling=Sampling())
    turn = parse_turn(FORCED_ANSWER_PREFIX + result.completions[0].text, MULTI_TURN)
    assert turn.action == Answer(LARGE.truth.answer)


async def test_a_seed_repeats_its_turn() -> None:
    policy = teacher()
    first = await policy.generate(asked(SMALL), seeds=SEEDS, sampling=Sampling())
    again = await policy.generate(asked(SMALL), seeds=SEEDS, sampling=Sampling())
    assert first.completions == again.completions
    assert {completion.finish_reason for completion in first.completions} == {FinishReason.STOP_STRING}


async def test_it_says_that_it_is_scripted_and_knows_no_other_scene() -> None:
    policy = teacher()
    info = await policy.info()
    assert info.scripted
    assert not info.token_exact
    assert "scripted" in info.name
    other = scene_example(make_scene(2), "other")
    with pytest.raises(PolicyError) as caught:
        await policy.generate(asked(other), seeds=[0], sampling=Sampling())
    assert caught.value.reason == "SCENE_UNKNOWN"
    assert "data set visual-search, split train" in caught.value.message
    with pytest.raises(PolicyError) as caught:
        await policy.update_weights(version=1, uri="x", run_id="r")
    assert caught.value.reason == "NOT_TRAINABLE"


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "teacher"},
        {"trainable_by": "run-1"},
        {"scripted": {}},
        {"scripted": {"root": "data", "error_rate": 1.5}},
        {"model": ""},
    ],
)
def test_settings_that_would_hide_or_break_the_script_are_refused(settings: dict[str, object]) -> None:
    valid = {"name": "scripted-teacher", "engine": "scripted", "model": "student", "scripted": {"root": "data"}}
    PolicyConfig.model_validate(valid)
    with pytest.raises(ValidationError):
        PolicyConfig.model_validate(valid | settings)
