from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.strategies import images
from vigorl_lib.domain.geometry import Box, Crop, Size
from vigorl_lib.domain.grammar import Answer, Continue, Turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import (
    ImageSpan,
    Message,
    Origin,
    Prefix,
    Role,
    Segment,
    StopReason,
    Trajectory,
    TurnRecord,
    flat_image_spans,
    flat_token_ids,
    trained_mask,
)

tokens = st.lists(st.integers(0, 9), max_size=6).map(tuple)
conversations = st.lists(st.tuples(st.sampled_from(Origin), tokens), max_size=8)


@given(conversation=conversations)
def test_the_loss_mask_covers_exactly_the_policys_tokens(conversation: list[tuple[Origin, tuple[int, ...]]]) -> None:
    # Token ids repeat across origins, so a mask that was searched in the tokens or the text would be wrong.
    segments = [
        Segment(origin, (Message(Role.ASSISTANT, ("same",)),), ids, trained=origin is Origin.POLICY)
        for origin, ids in conversation
    ]
    origins = [origin for origin, ids in conversation for _ in ids]
    assert trained_mask(segments) == tuple(origin is Origin.POLICY for origin in origins)
    assert len(trained_mask(segments)) == len(flat_token_ids(segments))
    assert flat_token_ids(segments) == tuple(token for _, ids in conversation for token in ids)


@given(parts=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3), images), max_size=6))
def test_image_spans_count_from_the_conversations_first_token(parts: list[tuple[int, int, Image]]) -> None:
    segments = [
        Segment(Origin.PROMPT, (), (0,) * before + (1,) * length, (ImageSpan(before, length, image),))
        for before, length, image in parts
    ]
    flat = flat_token_ids(segments)
    spans = list(flat_image_spans(segments))
    assert [span.image for span in spans] == [image for _, _, image in parts]
    assert {k for span in spans for k in range(span.start, span.start + span.length)} == {
        k for k, token in enumerate(flat) if token == 1
    }


def test_a_segment_that_was_never_rendered_has_no_flat_tokens() -> None:
    with pytest.raises(ValueError, match="demonstration"):
        flat_token_ids([Segment(Origin.PROMPT, (), (1,)), Segment(Origin.DEMONSTRATION, ())])


def said(text: str) -> Segment:
    return Segment(Origin.POLICY, (Message(Role.ASSISTANT, (text,)),))


def record(action: Answer | Continue, crop: Crop | None = None) -> TurnRecord:
    return TurnRecord(Turn("x", (), action), "", "stop_string", crop=crop)


def test_a_prefix_shares_its_past_and_reads_from_the_root() -> None:
    root = Prefix(None, (said("root"),), None, b"", (0,))
    left = Prefix(root, (said("left"),), record(Continue()), b"", (0, 0), depth=1)
    right = Prefix(root, (said("right"),), record(Answer("pink")), b"", (0, 1), StopReason.ANSWERED, depth=1)
    assert [s.text for s in left.segments] == ["root", "left"]
    assert [s.text for s in right.segments] == ["root", "right"]
    assert left.segments[0] is right.segments[0]
    assert left.path() == [root, left]
    assert (root.turns, len(right.turns)) == ((), 1)
    assert (root.answer, left.answer, right.answer) == (None, None, "pink")


def test_a_trajectorys_answer_is_that_of_its_last_turn() -> None:
    crop = Crop(Box(0, 0, 9, 9), Size(28, 28))
    trajectory = Trajectory(
        "r/e/0", "e", "multi_turn", "p", (), (record(Continue(), crop), record(Answer("pink"))), StopReason.ANSWERED
    )
    assert (trajectory.answer, trajectory.zooms) == ("pink", 1)
    assert Trajectory("r/e/0", "e", "multi_turn", "p", (), (), StopReason.POLICY_ERROR).answer is None


def test_only_failures_of_the_machinery_are_errors() -> None:
    assert {stop for stop in StopReason if stop.is_error} == {
        StopReason.ENVIRONMENT_ERROR,
        StopReason.POLICY_ERROR,
        StopReason.CANCELLED,
    }
