"""The published code's multi-turn chains: where a chain is cut, what is shown, what is dropped."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.search.support import example
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Point, Size
from vigorl_lib.domain.grammar import MULTI_TURN, SINGLE_TURN, parse_turn
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory, TurnRecord
from vigorl_lib.domain.wire import FORCED_ANSWER_THOUGHT, Spelling
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.prompts import Prompt
from vigorl_lib.search.reference_crops import PIXELS, Step, cut, rescaled, shuffled, with_crops
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore

PROMPT = Prompt("multi", "Zoom, then answer.", "")
ZOOM = ZoomConfig(source="model", border="clamp", observation=Spelling.SFT)


def steps(text: str) -> list[tuple[str, tuple[float, float]]]:
    return [(step.thought, (step.point.x, step.point.y)) for step in cut(text)]


def test_a_turn_ends_with_the_sentence_that_cites_a_new_place() -> None:
    text = "First a look. A car at (10, 20) stands there! Then v1.5 of it (30, 40) is red. So it is red."
    assert steps(text) == [
        ("First a look. A car at (10, 20) stands there!", (10, 20)),
        ("Then v1.5 of it (30, 40) is red.", (30, 40)),
    ]


def test_a_place_seen_before_adds_its_text_to_the_next_turn() -> None:
    text = "At (1, 1) it is. Again (1, 1) it is. And (2, 2) too"
    assert steps(text) == [("At (1, 1) it is.", (1, 1)), ("Again (1, 1) it is. And (2, 2) too", (2, 2))]


def test_a_second_place_in_one_sentence_has_no_thought_of_its_own() -> None:
    assert steps("From (1, 1) to (2, 2). Done.") == [("From (1, 1) to (2, 2).", (1, 1)), ("", (2, 2))]


def test_no_more_than_five_places_are_looked_at() -> None:
    text = " ".join(f"Look at ({k}, {k})." for k in range(8))
    assert [point for _, point in steps(text)] == [(k, k) for k in range(5)]


def test_points_are_rescaled_by_axis_and_cut_to_whole_numbers() -> None:
    assert rescaled("at (10, 10) or (33.9,7)", Size(100, 200), Size(250, 300)) == "at (25, 15) or (84, 10)"


def test_one_in_five_chains_has_its_first_zoom_moved() -> None:
    original = [Step(str(k), Point(k, k)) for k in range(4)]
    rng = random.Random(0)
    orders = Counter("".join(step.thought for step in shuffled(original, rng)) for _ in range(4000))
    assert set(orders) == {"0123", "1023", "1203"}
    # Of the fifth that is drawn, a third goes before the second one, where it stands already.
    assert orders["1023"] + orders["1203"] == pytest.approx(4000 * 0.2 * 2 / 3, rel=0.15)
    assert shuffled(original[:1], rng) == original[:1]


@pytest.fixture
def stored(tmp_path: Path) -> tuple[ImageStore, Example]:
    images, question = ImageStore(FolderStorage(tmp_path)), example()
    data = question.images[0].data
    assert data is not None
    return images, replace(question, images=(images.put(data),))


def chain(question: Example, thought: str, answer: str = "pink") -> Trajectory:
    text = f"<think>\n{thought}\n</think>\n<answer> {answer} </answer>"
    opening = Segment(
        Origin.PROMPT, (Message(Role.SYSTEM, ("one look",)), Message(Role.USER, (*question.images, "\nWhat is it?")))
    )
    record = TurnRecord(parse_turn(text, SINGLE_TURN), text, "stop")
    said = Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (text,)),), trained=True)
    return Trajectory(
        "t/one/direct.0", "one", "single_turn", "p", (opening, said), (record,), StopReason.ANSWERED,
        model_size=Size(112, 112),
    )  # fmt: skip


async def test_the_chain_shows_a_crop_after_each_zoom_and_ends_with_the_fixed_thought(
    stored: tuple[ImageStore, Example],
) -> None:
    images, question = stored
    environment = ZoomEnvironment(threads=1)
    thoughts = "A look at (28, 28). Closer at (84, 56). All is clear."
    (made,) = await with_crops([chain(question, thoughts, "(56, 56)")], PROMPT, ZOOM, environment, images, 0)
    size = PIXELS.model_size(question.images[0].size)
    assert made.model_size == size
    assert 2_700_000 <= size.area <= 2_850_000
    scale = size.width / 112
    spoken = [segment.text for segment in made.segments if segment.origin is Origin.DEMONSTRATION]
    turns = [parse_turn(text, MULTI_TURN) for text in spoken]
    assert turns == [record.turn for record in made.turns]
    assert [turn.thought for turn in turns] == [
        f"A look at ({int(28 * scale)}, {int(28 * scale)}).",
        f"Closer at ({int(84 * scale)}, {int(56 * scale)}).",
        FORCED_ANSWER_THOUGHT,
    ]
    assert made.answer == f"({int(56 * scale)}, {int(56 * scale)})"
    shown = [segment.messages[0] for segment in made.segments if segment.origin is Origin.OBSERVATION]
    state = (await environment.start(question.images[0], mode="multi_turn", config=ZOOM, resize=PIXELS)).state
    for text, message in zip(spoken, shown, strict=False):
        outcome = await environment.step(state, text, question.images[0])
        state = outcome.state
        assert outcome.observation is not None
        assert outcome.observation.text == message.text
        assert outcome.observation.images[0].sha256 == message.images[0].sha256
        assert message.images[0].sha256 in images
    assert made.segments[0].messages[0].text == PROMPT.text
    await environment.close()


async def test_a_chain_that_points_beside_its_image_is_dropped(stored: tuple[ImageStore, Example]) -> None:
    images, question = stored
    environment = ZoomEnvironment(threads=1)
    made = await with_crops(
        [chain(question, "Out at (200, 5)."), chain(question, "In at (20, 5).")], PROMPT, ZOOM, environment, images, 0
    )
    assert [one.turns[0].turn.thought.split()[0] for one in made] == ["In"]
    await environment.close()
