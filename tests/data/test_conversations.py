"""Conversations of other tools become chains: who said what, which image stands where, what is to be learnt."""

from __future__ import annotations

from typing import Any

import pytest

from vigorl_lib.data.conversations import read_conversation
from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Origin, Role, Trajectory
from vigorl_lib.errors import DataError


def image(path: str) -> Image:
    return Image(path, "image/png", Size(28, 28))


def read(**values: Any) -> Trajectory:
    return read_conversation(Fields(values, "chains.json[7]"), image)


TURNS = [
    {"role": "system", "content": "Look."},
    {"role": "user", "content": "<image>Which tile?"},
    {"role": "assistant", "content": "Zoom."},
    {"role": "user", "content": "Here: <image>"},
    {"role": "assistant", "content": "Pink."},
]


def test_assistant_turns_are_demonstrations_and_images_stand_where_they_stood() -> None:
    chain = read(id="c", messages=TURNS, images=["scene.png", "crop.png"], metadata={"mode": "multi_turn"})
    assert (chain.trajectory_id, chain.example_id, chain.mode) == ("c", "c", "multi_turn")
    assert [(s.origin, s.trained) for s in chain.segments] == [
        (Origin.PROMPT, False),
        (Origin.DEMONSTRATION, True),
        (Origin.OBSERVATION, False),
        (Origin.DEMONSTRATION, True),
    ]
    prompt, zoom, crop, answer = chain.segments
    assert [message.role for message in prompt.messages] == [Role.SYSTEM, Role.USER]
    assert prompt.messages[1].parts == (image("scene.png"), "Which tile?")
    assert crop.messages[0].parts == ("Here: ", image("crop.png"))
    assert (zoom.text, answer.text) == ("Zoom.", "Pink.")


def test_the_older_spelling_says_the_same() -> None:
    turns = [{"from": "human", "value": "<image>Which tile?"}, {"from": "gpt", "value": "Pink."}]
    older = read(id="c", system="Look.", conversations=turns, images=["scene.png"])
    newer = read(id="c", messages=[*TURNS[:2], {"role": "assistant", "content": "Pink."}], images=["scene.png"])
    assert older.segments == newer.segments


def test_without_a_name_a_chain_is_called_after_its_place() -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    assert read(messages=turns).trajectory_id == "chains.json[7]"


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        (TURNS, ["scene.png"], "more <image> in the texts"),
        (TURNS, ["scene.png", "crop.png", "third.png"], "found 1 more"),
        (TURNS[:2], ["scene.png"], "ends with the assistant"),
        (TURNS[:4], ["scene.png", "crop.png"], "ends with the assistant"),
        ([TURNS[0], TURNS[2]], [], "turn of the user before"),
        ([*TURNS[:3], TURNS[2]], ["scene.png"], "turn of the user before"),
        ([{"role": "tool", "content": "?"}], [], "expected one of"),
        ([TURNS[1], {"role": "assistant", "content": "<image>"}], ["a", "b"], "in what it says"),
        (TURNS, [1, 2], "expected paths"),
        ([], [], "ends with the assistant"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_with_its_place(turns: Any, images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(messages=turns, images=images)
    assert caught.value.reason == "RECORD_INVALID"
    assert "chains.json[7]" in caught.value.message
