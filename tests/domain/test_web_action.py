from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.web_action import DIRECTIONS, Verb, WebAction, history_entry, parse_action, question


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("click [12]", WebAction(Verb.CLICK, 12)),
        (" Click  [ 12 ]\n", WebAction(Verb.CLICK, 12)),
        ("type [3] [New York]", WebAction(Verb.TYPE, 3, "New York")),
        ("type [3][]", WebAction(Verb.TYPE, 3)),
        ("type [3] [a[0] = [1]]", WebAction(Verb.TYPE, 3, "a[0] = [1]")),
        ("scroll [down]", WebAction(Verb.SCROLL, direction="down")),
        ("scroll [ UP ]", WebAction(Verb.SCROLL, direction="up")),
        ("go_back", WebAction(Verb.GO_BACK)),
        ("stop [12 dollars]", WebAction(Verb.STOP, text="12 dollars")),
        ("stop []", WebAction(Verb.STOP)),
        ("stop", WebAction(Verb.STOP)),
    ],
)
def test_an_action_is_read_from_its_spelling(text: str, action: WebAction) -> None:
    assert parse_action(text) == action


@pytest.mark.parametrize(
    "text",
    ["", "click", "click 12", "click [x]", "click [12] now", "click [12] [3]", "type [3]", "type [New York]",
     "type [x] [y]", "scroll", "scroll [left]", "go_back [1]", "go_back now", "hover [3]", "clicking [3]",
     "I click [3]", "stop now",
     "click [" + "9" * 5000 + "]"],
)  # fmt: skip
def test_what_is_no_action_is_none(text: str) -> None:
    assert parse_action(text) is None


def test_texts_are_the_same_but_for_case_and_blanks_and_elements_are_not() -> None:
    wanted = WebAction(Verb.TYPE, 3, "New York")
    assert WebAction(Verb.TYPE, 3, " new   york").same(wanted)
    assert not WebAction(Verb.TYPE, 4, "New York").same(wanted)
    assert not WebAction(Verb.TYPE, 3, "Boston").same(wanted)
    assert not WebAction(Verb.CLICK, 3).same(wanted)


contents = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.strip)
actions = st.one_of(
    st.builds(WebAction, st.just(Verb.CLICK), st.integers(0, 10**9 - 1)),
    st.builds(WebAction, st.just(Verb.TYPE), st.integers(0, 10**9 - 1), contents),
    st.builds(lambda way: WebAction(Verb.SCROLL, direction=way), st.sampled_from(DIRECTIONS)),
    st.just(WebAction(Verb.GO_BACK)),
    st.builds(lambda text: WebAction(Verb.STOP, text=text), contents),
)


@given(actions)
def test_what_is_written_is_read_again(action: WebAction) -> None:
    assert parse_action(str(action)) == action


@given(st.text(max_size=60))
def test_any_text_is_an_action_or_none(text: str) -> None:
    found = parse_action(text)
    assert found is None or parse_action(str(found)) == found


def test_history_names_elements_by_their_text_and_the_question_numbers_it() -> None:
    elements = {7: "[INPUT] []", 9: "[A] [Home]"}
    entries = [
        history_entry(WebAction(Verb.TYPE, 7, "Questions"), elements),
        history_entry(WebAction(Verb.CLICK, 9), elements),
        history_entry(WebAction(Verb.CLICK, 8), elements),
        history_entry(WebAction(Verb.SCROLL, direction="down"), elements),
    ]
    assert entries == ["type  [INPUT] [] [Questions]", "click  [A] [Home]", "click  [8]", "scroll [down]"]
    text = question("Find the answer.", entries[:2])
    history = "1. type  [INPUT] [] [Questions]\n2. click  [A] [Home]"
    assert text == f"OBJECTIVE: Find the answer.\n\nPREVIOUS ACTIONS: \n{history}\n\nIMAGE:"
    assert "PREVIOUS ACTIONS: \nNone" in question("x", [])
