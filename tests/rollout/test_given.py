"""What stands before a question, and how it is asked again."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tests.pictures import encoded
from tests.rollout.support import RESIZE, TASK, ZOOM, WordPolicy, answer, question, said, stepping, zoom
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.grammar import Continue, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import Origin, Role, Segment, StopReason
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.rollout.given import play
from vigorl_lib.rollout.run import solve
from vigorl_lib.rollout.step import StepError
from vigorl_lib.rollout.task import FewShotExample, TaskConfig

SHOWN = encoded(448, 448, color=3)
SHOT = FewShotExample(image=digest(SHOWN), question="And this one?", replies=(zoom(100, 100), answer("green")))
CLASSIC = TASK.model_copy(update={"mode": "classic", "prompt": "single_turn"})


def load(sha256: str) -> Image:
    return Image(sha256, "image/png", Size(448, 448), SHOWN)


def thought(x: int, y: int) -> str:
    return render_turn(f"Something at ({x}, {y}).", Continue())


def step_by_step(prompt: Sequence[Segment], index: int) -> str:
    asked = len(re.findall("Previous thought", prompt[0].text))
    return thought(20 + 30 * asked, 40) if asked < 2 else answer()


async def test_few_shot_examples_stand_before_the_question_with_their_pictures_and_crops() -> None:
    policy = WordPolicy(lambda *_: answer())
    stepper = stepping(policy, TASK.model_copy(update={"few_shot": (SHOT,)}), load_image=load)
    asked = question()
    trajectory = await solve(stepper, asked, trajectory_id="t", seed_path=(0,))
    (opening,) = policy.calls[0].prompt
    roles = [message.role for message in opening.messages]
    assert roles == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT, Role.USER]
    _, shown, first, crop, second, last = opening.messages
    assert shown.images[0].data == SHOWN
    assert (first.text, second.text) == SHOT.replies
    assert crop.images[0].size == Size(112, 112)
    assert last.images == asked.images
    assert trajectory.model_size == RESIZE.model_size(asked.images[0].size)
    assert trajectory.stop is StopReason.ANSWERED


async def test_zooms_go_to_the_picture_of_the_question_not_of_an_example() -> None:
    policy = WordPolicy(lambda prompt, _: zoom() if not said(prompt) else answer())
    few = stepping(policy, TASK.model_copy(update={"few_shot": (SHOT,)}), load_image=load)
    with_shots = await solve(few, question(), trajectory_id="t", seed_path=(0,))
    bare = await solve(stepping(policy), question(), trajectory_id="t", seed_path=(0,))
    assert with_shots.turns[0].crop_image == bare.turns[0].crop_image


async def test_an_example_that_cannot_be_played_names_its_turn() -> None:
    bad = SHOT.model_copy(update={"replies": (zoom(9999, 1), answer())})
    stepper = stepping(WordPolicy(lambda *_: answer()), TASK.model_copy(update={"few_shot": (bad,)}), load_image=load)
    with pytest.raises(StepError, match=r"turn 0: the point .9999, 1. lies outside") as caught:
        await stepper.start(question(), (0,))
    assert caught.value.reason == "TURN_UNPLAYABLE"
    with pytest.raises(DataError, match="1 turns follow"):
        await play(
            ZoomEnvironment(threads=1),
            load(SHOT.image),
            [answer(), answer()],
            mode="multi_turn",
            config=ZOOM,
            resize=RESIZE,
        )


def test_examples_are_refused_where_their_pictures_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match="no storage"):
        stepping(WordPolicy(lambda *_: answer()), TASK.model_copy(update={"few_shot": (SHOT,)}))


async def test_the_least_number_of_steps_is_drawn_per_question_and_the_same_for_a_seed() -> None:
    stepper = stepping(
        WordPolicy(lambda *_: answer()), TASK.model_copy(update={"min_steps_from": 3, "min_steps_to": 7})
    )

    async def asked(*path: int | str) -> int:
        text = (await stepper.start(question(), path)).segments[0].messages[0].text
        return int(re.findall(r"at least (\d+) steps", text)[0])

    numbers = {name: await asked(0, "search", name) for name in map(str, range(60))}
    assert set(numbers.values()) == {3, 4, 5, 6, 7}
    assert numbers == {name: await asked(0, "search", name) for name in numbers}
    plain = await stepping(WordPolicy(lambda *_: answer())).start(question(), (0,))
    assert "at least" not in plain.segments[0].messages[0].text.splitlines()[-1]


def test_a_range_of_steps_begins_before_it_ends() -> None:
    with pytest.raises(ValueError, match="min_steps_to"):
        TaskConfig(min_steps_from=5, min_steps_to=4)


async def test_the_classic_step_asks_again_with_all_thoughts_numbered_behind_the_question() -> None:
    policy = WordPolicy(step_by_step)
    trajectory = await solve(stepping(policy, CLASSIC), question(), trajectory_id="t", seed_path=(0,))
    assert [len(call.prompt) for call in policy.calls] == [1, 1, 1]
    assert policy.calls[-1].prompt[0].messages[-1].text == (
        "\nWhat is one?\n\nPrevious thought 1: Something at (20, 40).\n\nPrevious thought 2: Something at (50, 40)."
    )
    assert [record.turn.action for record in trajectory.turns[:2]] == [Continue(), Continue()]
    assert trajectory.answer == "pink"
    assert trajectory.zooms == 0


async def test_the_classic_step_counts_what_was_said_against_the_budget_and_forces_an_answer() -> None:
    policy = WordPolicy(
        lambda p, _: " pink </answer>" if p[-1].origin is Origin.FORCED else thought(20 * len(policy.calls), 9)
    )
    task = CLASSIC.model_copy(update={"force_answer": True, "max_turn_tokens": 100, "max_tokens": 100})
    trajectory = await solve(stepping(policy, task), question(), trajectory_id="t", seed_path=(0,))
    assert trajectory.stop is StopReason.ANSWERED
    assert trajectory.turns[-1].text.startswith(FORCED_ANSWER_PREFIX)
    left = [call.sampling.max_tokens for call in policy.calls]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[1]


def test_the_classic_step_is_no_conversation_to_train_on() -> None:
    with pytest.raises(ConfigError, match="thought_steps"):
        stepping(WordPolicy(lambda *_: answer()), CLASSIC, own=True)
