"""Finding the end of a turn."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vigorl_lib.domain.geometry import Point
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.wire import ACTION_STOPS
from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.models.tiny_tokenizer import build_tokenizer
from vigorl_lib.policy.base import FinishReason, Sampling
from vigorl_lib.policy.stops import StopDetector

RENDERER = ChatRenderer(build_tokenizer(), RESIZE)
DETECTOR = StopDetector(RENDERER)

parts_of_turns = st.sampled_from([*ACTION_STOPS, "</answer", ">", "</tool_call", "é", "<think> The", " pink", "x>"])


@given(st.lists(parts_of_turns | st.text(max_size=3), max_size=8), st.booleans())
@example(["</answer>"], True)
@settings(max_examples=150, deadline=None)
def test_sampling_ends_exactly_where_the_text_first_holds_a_stop_string(parts: list[str], by_byte: bool) -> None:
    pieces = [piece for part in parts for piece in (part if by_byte else [part])]
    ids = [token for piece in pieces for token in RENDERER.encode(piece)]
    for end in range(1, len(ids) + 1):
        complete = any(stop in RENDERER.decode(ids[:end]) for stop in ACTION_STOPS)
        reason = DETECTOR.finished(ids[:end], Sampling(max_tokens=10**6))
        assert reason == (FinishReason.STOP_STRING if complete else None)
        if complete:
            assert DETECTOR.text(ids[:end], ACTION_STOPS, reason or FinishReason.LENGTH).endswith(ACTION_STOPS)
            return


def test_turns_of_the_grammar_end_with_their_last_token() -> None:
    for action in (Zoom(Point(38, 66)), Answer("pink")):
        text = render_turn("The red tile is at (38, 66).", action)
        ids = RENDERER.encode(text)
        reasons = [DETECTOR.finished(ids[:end], Sampling(max_tokens=100)) for end in range(1, len(ids) + 1)]
        assert reasons == [None] * (len(ids) - 1) + [FinishReason.STOP_STRING]
        assert DETECTOR.text(ids, ACTION_STOPS, FinishReason.STOP_STRING) == text


def test_the_end_of_turn_token_is_not_part_of_the_text() -> None:
    ids = [*RENDERER.encode("It is pink"), RENDERER.im_end]
    assert DETECTOR.finished(ids, Sampling(stop=(), max_tokens=100)) is FinishReason.END_OF_TURN
    assert DETECTOR.text(ids, (), FinishReason.END_OF_TURN) == "It is pink"


def test_a_turn_without_end_stops_at_its_length() -> None:
    ids = RENDERER.encode("It is pink")
    assert DETECTOR.finished(ids, Sampling(max_tokens=len(ids))) is FinishReason.LENGTH
