from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigorl_lib.domain.geometry import Frame, Point
from vigorl_lib.domain.grammar import (
    MULTI_TURN,
    SINGLE_TURN,
    THOUGHT_STEPS,
    Action,
    Answer,
    Continue,
    Malformed,
    MalformedReason,
    Mode,
    TurnScanner,
    Zoom,
    find_points,
    map_points,
    number,
    parse_turn,
    render_point,
    render_tool_call,
    render_turn,
)
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX, FORCED_ANSWER_THOUGHT, Spelling, observation_text

TAGS = (
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<answer>",
    "</answer>",
    "<observation>",
    "</observation>",
)

pieces = st.sampled_from(
    ["(3, 4)", "(-7,12)", "( 10 , 2.5 )", "<", ">", "/think", "look", " ", "\n", '{"', "[1, 2]", "(a, 1)"]
)
texts = (st.text(max_size=30) | st.lists(pieces, max_size=8).map("".join)).filter(
    lambda text: not any(tag in text for tag in TAGS)
)
points = st.builds(Point, st.integers(-5000, 5000).map(float), st.integers(-5000, 5000).map(float))
turns = st.one_of(
    st.tuples(st.just(Continue()), st.just(THOUGHT_STEPS)),
    st.tuples(st.builds(Zoom, points), st.just(MULTI_TURN)),
    st.tuples(
        st.builds(Answer, texts.map(str.strip).filter(bool)), st.sampled_from([SINGLE_TURN, MULTI_TURN, THOUGHT_STEPS])
    ),
)


@given(thought=texts, turn=turns, strict=st.booleans())
def test_a_rendered_turn_reads_as_itself(thought: str, turn: tuple[Action, Mode], strict: bool) -> None:
    action, mode = turn
    read = parse_turn(render_turn(thought, action), mode, strict=strict)
    assert read.thought == thought.strip()
    assert read.action == action
    assert read.points == find_points(thought)
    assert render_turn(read.thought, read.action) == render_turn(thought, action), "there is one spelling"


@given(text=st.lists(st.sampled_from(TAGS) | texts, max_size=10).map("".join), strict=st.booleans())
def test_any_text_reads_as_some_turn_in_every_mode(text: str, strict: bool) -> None:
    for mode in (SINGLE_TURN, MULTI_TURN, THOUGHT_STEPS):
        turn = parse_turn(text, mode, strict=strict)
        if isinstance(turn.action, Malformed):
            assert turn.action.detail


@given(thought=texts, turn=turns, cuts=st.lists(st.integers(0, 300), max_size=12))
def test_a_turn_read_in_pieces_is_the_turn_read_at_once(
    thought: str, turn: tuple[Action, Mode], cuts: list[int]
) -> None:
    action, mode = turn
    text = render_turn(thought, action)
    scanner = TurnScanner(mode)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    seen = [point for a, b in itertools.pairwise(edges) for point in scanner.feed(text[a:b])]
    assert scanner.turn() == parse_turn(text, mode)
    assert tuple(seen) == parse_turn(text, mode).points, "each point is told of once"
    assert scanner.complete == (not isinstance(action, Continue))
    assert scanner.feed(" more (9, 9)") == () or not scanner.complete


def test_a_scanner_stops_at_the_end_of_the_action_and_drops_what_follows() -> None:
    text = render_turn("Here (3, 4).", Zoom(Point(3, 4)))
    scanner = TurnScanner()
    assert scanner.feed("<think> at (3,") == ()
    assert scanner.feed(" 4) </think>") == (Point(3, 4),)
    assert not scanner.complete
    assert scanner.feed(text.partition("</think>")[2] + " and (5, 6)") == ()
    assert scanner.complete
    assert scanner.text.endswith("</tool_call>")
    assert scanner.turn().action == Zoom(Point(3, 4))


GOOD_CALL = render_tool_call(Point(3, 4))
NO_THOUGHT, UNCLOSED, NO_ACTION, SEVERAL, OUTSIDE_TAGS, BAD_CALL, EMPTY, NOT_ALLOWED = MalformedReason

CALL_BODIES = {
    "no json": "3, 4",
    "no object": "[3, 4]",
    "no arguments": '{"name": "search_coordinate"}',
    "one number": '{"name": "search_coordinate", "arguments": {"coordinate": [3]}}',
    "three numbers": '{"name": "search_coordinate", "arguments": {"coordinate": [3, 4, 5]}}',
    "words": '{"name": "search_coordinate", "arguments": {"coordinate": ["3", "4"]}}',
    "truth values": '{"name": "search_coordinate", "arguments": {"coordinate": [true, false]}}',
    "not a number": '{"name": "search_coordinate", "arguments": {"coordinate": [NaN, 4]}}',
    "endless": '{"name": "search_coordinate", "arguments": {"coordinate": [Infinity, 4]}}',
    "very large": '{"name": "search_coordinate", "arguments": {"coordinate": [1e300, 4]}}',
    "deep": "[" * 50_000,
}


@pytest.mark.parametrize("body", CALL_BODIES.values(), ids=CALL_BODIES)
@pytest.mark.parametrize("strict", [True, False])
def test_a_call_that_names_no_point_is_a_bad_call(body: str, strict: bool) -> None:
    turn = parse_turn(f"<think> x </think>\n<tool_call>{body}</tool_call>", strict=strict)
    assert isinstance(turn.action, Malformed)
    assert turn.action.reason is BAD_CALL
    assert "search_coordinate" in turn.action.detail


def test_the_tools_name_counts_only_strictly() -> None:
    text = '<think> x </think>\n<tool_call>{"name": "crop", "arguments": {"coordinate": [3, 4]}}</tool_call>'
    strict = parse_turn(text).action
    assert isinstance(strict, Malformed)
    assert strict.reason is BAD_CALL
    assert parse_turn(text, strict=False).action == Zoom(Point(3, 4))


# Text, the reason in strict mode, and what lenient mode makes of it.
TABLE: list[tuple[str, MalformedReason, Action | MalformedReason]] = [
    ("", NO_THOUGHT, NO_ACTION),
    ("pink", NO_THOUGHT, NO_ACTION),
    ("<answer> pink </answer>", NO_THOUGHT, Answer("pink")),
    ("So: <think> x </think>\n<answer> pink </answer>", NO_THOUGHT, Answer("pink")),
    ("<think> x", UNCLOSED, NO_ACTION),
    ("<think> x <answer> pink </answer>", UNCLOSED, Answer("pink")),
    ("<think> x <think> y </think>\n<answer> pink </answer>", UNCLOSED, Answer("pink")),
    ("<think> x <answer> cyan </answer> </think>\n<answer> pink </answer>", UNCLOSED, Answer("cyan")),
    ("<think> x </think>", NO_ACTION, NO_ACTION),
    ("<think> x </think>\npink", OUTSIDE_TAGS, NO_ACTION),
    ("<think> x </think>\nso <answer> pink </answer>", OUTSIDE_TAGS, Answer("pink")),
    ("<think> x </think>\n<answer> pink </answer> done", OUTSIDE_TAGS, Answer("pink")),
    (f"<think> x </think>\n{GOOD_CALL}\nok", OUTSIDE_TAGS, Zoom(Point(3, 4))),
    ("<think> x </think>\n<answer> pink", UNCLOSED, Answer("pink")),
    ("<think> x </think>\n<tool_call> {", UNCLOSED, UNCLOSED),
    (f"<think> x </think>\n{GOOD_CALL}\n{GOOD_CALL}", SEVERAL, Zoom(Point(3, 4))),
    (f"<think> x </think>\n{GOOD_CALL}\n<answer> pink </answer>", SEVERAL, Zoom(Point(3, 4))),
    (f"<think> x </think>\n<answer> pink </answer>{GOOD_CALL}", SEVERAL, Answer("pink")),
    ("<think> x </think>\n<answer> a </answer><answer> b </answer>", SEVERAL, Answer("a")),
    ("<think> x </think>\n<answer> a <answer> b </answer>", SEVERAL, Answer("a <answer> b")),
    ("<think> x </think>\n<answer>  </answer>", EMPTY, EMPTY),
]


@pytest.mark.parametrize(("text", "strict", "lenient"), TABLE)
def test_a_malformed_turn_has_a_typed_reason(
    text: str, strict: MalformedReason, lenient: Action | MalformedReason
) -> None:
    found = parse_turn(text).action
    assert isinstance(found, Malformed)
    assert found.reason is strict
    loose = parse_turn(text, strict=False).action
    assert (loose.reason if isinstance(loose, Malformed) else loose) == lenient


@pytest.mark.parametrize("strict", [True, False])
def test_an_action_that_the_mode_forbids_is_refused_by_name(strict: bool) -> None:
    zooming = parse_turn(render_turn("x", Zoom(Point(3, 4))), SINGLE_TURN, strict=strict)
    assert isinstance(zooming.action, Malformed)
    assert zooming.action.reason is NOT_ALLOWED
    assert "answer" in zooming.action.detail
    assert "zoom" in zooming.action.detail
    alone = parse_turn(render_turn("x", Continue()), SINGLE_TURN, strict=strict).action
    assert isinstance(alone, Malformed)
    assert alone.reason is NO_ACTION
    assert parse_turn(render_turn("x", Continue()), THOUGHT_STEPS, strict=strict).action == Continue()


def test_lenient_reading_takes_the_thought_before_the_first_tag() -> None:
    turn = parse_turn("I look at (5, 6).\n<answer> pink", strict=False)
    assert (turn.thought, turn.points, turn.action) == ("I look at (5, 6).", (Point(5, 6),), Answer("pink"))


def test_points_are_read_in_order_with_repeats_and_a_zoom_is_cited_last() -> None:
    turn = parse_turn(render_turn("From (1, 2) to (3.5, -4), back to (1,2); not (a, 3) or [5, 6].", Zoom(Point(9, 9))))
    assert turn.points == (Point(1, 2), Point(3.5, -4), Point(1, 2))
    assert turn.cited == (*turn.points, Point(9, 9))
    assert parse_turn(render_turn("At (1, 2).", Answer("x"))).cited == (Point(1, 2),)


def test_points_are_of_the_frame_that_was_asked_for() -> None:
    text = render_turn("At (1, 2).", Zoom(Point(3, 4)))
    assert {point.frame for point in parse_turn(text, frame=Frame.NORMALIZED).cited} == {Frame.NORMALIZED}


def test_a_tool_call_is_one_line_of_json() -> None:
    call = render_tool_call(Point(3, 4.5))
    opening, body, closing = call.split("\n")
    assert (opening, closing) == ("<tool_call>", "</tool_call>")
    assert json.loads(body) == {"name": "search_coordinate", "arguments": {"coordinate": [3, 4.5]}}


def test_whole_numbers_are_written_without_a_point() -> None:
    assert [number(3.0), number(-2), number(2.5)] == ["3", "-2", "2.5"]
    assert render_point(Point(3.0, 4.25)) == "(3, 4.25)"


def test_a_malformed_turn_has_no_spelling() -> None:
    with pytest.raises(ValueError, match="no_thought"):
        render_turn("x", Malformed(NO_THOUGHT, ""))


def test_a_forced_answer_that_is_finished_is_a_whole_turn() -> None:
    turn = parse_turn(FORCED_ANSWER_PREFIX + " pink </answer>")
    assert (turn.thought, turn.action) == (FORCED_ANSWER_THOUGHT, Answer("pink"))


def test_the_observation_tells_of_the_dot_only_if_there_is_one() -> None:
    opening, closing = observation_text()
    dotted, _ = observation_text(dot=True)
    assert opening.startswith("<observation>\n")
    assert closing == "</observation>"
    assert "red dot" in dotted
    assert "red dot" not in opening


SENTENCE = "Here is the crop of the image centered on the coordinate"
DOTTED = SENTENCE + ", with a red dot at the coordinate location"


@pytest.mark.parametrize(
    ("spelling", "plain", "dotted"),
    [
        ("grpo", f"<observation>\n{SENTENCE}:\nIMG</observation>", f"<observation>\n{DOTTED}:\nIMG</observation>"),
        ("sft", f"<observation>\n{SENTENCE}:\nIMG\n</observation>", f"<observation>\n{DOTTED}:\nIMG\n</observation>"),
        ("eval", f"<observation>\n{SENTENCE}:IMG\n</observation>", f"<observation>\n{SENTENCE}:IMG\n</observation>"),
        ("demo", f"<observation>\n{SENTENCE}:\n</observation>IMG", f"<observation>\n{SENTENCE}:\n</observation>IMG"),
    ],
)
def test_the_references_four_spellings_of_an_observation_byte_for_byte(spelling: str, plain: str, dotted: str) -> None:
    for dot, expected in ((False, plain), (True, dotted)):
        assert "IMG".join(observation_text(Spelling(spelling), dot=dot)) == expected


spoken = st.lists(
    pieces
    | st.sampled_from(TAGS)
    | st.sampled_from(
        [
            render_tool_call(Point(3, 4.5)),
            render_turn("There (1, 2).", Zoom(Point(-30, 40))),
            render_turn("So (1, 2).", Answer("(5, 6)")),
            '<tool_call>{"name": "search_coordinate", "arguments": {"co\\u006frdinate": [1e1, 2]}}</tool_call>',
            '<tool_call>{"name": "search_coordinate", "arguments": {"coordinate": [1, true]}}</tool_call>',
            '<tool_call>{"arguments": {"coordinate": "12"}}</tool_call>',
            '<think><tool_call>{"arguments": {"coordinate": [1, 2], "note": "(3, 4)"}}</tool_call> (5, 6)</think>',
        ]
    ),
    max_size=8,
).map("".join)


@given(spoken | texts, st.booleans())
def test_mapped_text_reads_as_the_same_turn_with_its_points_moved(text: str, strict: bool) -> None:
    def move(point: Point) -> Point:
        assert point.frame is Frame.NORMALIZED
        return Point(point.x * 2, point.y / 4)

    before = parse_turn(text, strict=strict, frame=Frame.NORMALIZED)
    after = parse_turn(map_points(text, move, Frame.NORMALIZED), strict=strict)
    assert after.cited == tuple(map(move, before.cited))
    match before.action, after.action:
        case (Malformed(), _) | (Continue(), _):
            assert after.action == before.action
        case Answer(said), Answer(mapped):
            assert find_points(mapped) == tuple(map(move, find_points(said, Frame.NORMALIZED)))
        case Zoom(), Zoom():
            pass
        case _:
            raise AssertionError(after)


def test_mapping_touches_nothing_but_points() -> None:
    text = render_turn("At (1, 2), not [1, 2] or (a, 3).", Zoom(Point(3, 4)))
    assert map_points(text, lambda point: point) == text
    assert map_points(text, lambda p: Point(p.x + 0.5, p.y)) == render_turn(
        "At (1.5, 2), not [1, 2] or (a, 3).", Zoom(Point(3.5, 4))
    )
