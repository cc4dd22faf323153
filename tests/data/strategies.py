"""Hypothesis strategies for examples and trajectories of every shape."""

from __future__ import annotations

from hypothesis import strategies as st

from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, Frame, Point, Size
from vigorl_lib.domain.grammar import Answer, Continue, Malformed, MalformedReason, Turn, Zoom
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import (
    ImageSpan,
    InvalidTurn,
    Message,
    Origin,
    Role,
    Segment,
    StopReason,
    Trajectory,
    TurnRecord,
)

texts = st.text(max_size=20)
names = st.text(min_size=1, max_size=10).filter(str.strip)
finite = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.builds(Size, st.integers(2, 5000), st.integers(2, 5000))
images = st.builds(
    Image, st.text("0123456789abcdef", min_size=64, max_size=64), st.sampled_from(["image/png", "image/jpeg"]), sizes
)
points = st.builds(Point, finite, finite, st.sampled_from(Frame))
boxes = st.builds(Box, finite, finite, finite, finite, st.sampled_from(Frame))
actions = st.one_of(
    st.just(Continue()),
    st.builds(Zoom, points),
    st.builds(Answer, texts),
    st.builds(Malformed, st.sampled_from(MalformedReason), texts),
)
turn_records = st.builds(
    TurnRecord,
    turn=st.builds(Turn, texts, st.lists(points, max_size=3).map(tuple), actions),
    text=texts,
    finish_reason=texts,
    invalid=st.none() | st.sampled_from(InvalidTurn),
    detail=texts,
    crop=st.none() | st.builds(Crop, boxes, sizes),
    crop_image=st.none() | images,
)
messages = st.builds(Message, st.sampled_from(Role), st.lists(texts | images, max_size=3).map(tuple))


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    token_ids = draw(st.none() | st.lists(st.integers(0, 200_000), max_size=6).map(tuple))
    length = len(token_ids or ())
    logprobs = draw(st.just(()) | st.lists(finite, min_size=length, max_size=length).map(tuple))
    spans = st.lists(st.builds(ImageSpan, st.integers(0, 9), st.integers(1, 9), images), max_size=2).map(tuple)
    return Segment(
        origin=draw(st.sampled_from(Origin)),
        messages=draw(st.lists(messages, max_size=3).map(tuple)),
        token_ids=token_ids,
        image_spans=draw(spans),
        logprobs=logprobs,
        policy_version=draw(st.integers(-1, 1000)),
        trained=draw(st.booleans()),
    )


trajectories = st.builds(
    Trajectory,
    trajectory_id=names,
    example_id=names,
    mode=names,
    policy=names,
    segments=st.lists(segments(), max_size=3).map(tuple),
    turns=st.lists(turn_records, max_size=3).map(tuple),
    stop=st.sampled_from(StopReason),
    error=texts,
    seconds=st.floats(0, 1e6),
    reward=st.none() | finite,
    reward_parts=st.dictionaries(names, finite, max_size=3),
    outcome=texts,
    model_size=st.none() | sizes,
)


@st.composite
def boxes_on(draw: st.DrawFn, size: Size) -> Box:
    x0, y0 = draw(st.integers(0, size.width - 1)), draw(st.integers(0, size.height - 1))
    return Box(x0, y0, draw(st.integers(x0 + 1, size.width)), draw(st.integers(y0 + 1, size.height)))


@st.composite
def examples(draw: st.DrawFn) -> Example:
    pictures = draw(st.lists(images, min_size=1, max_size=2).map(tuple))
    box = boxes_on(pictures[0].size)
    kind = draw(st.sampled_from(AnswerKind))
    choices = draw(st.lists(names, min_size=1, max_size=3).map(tuple))
    box_of_truth = draw(box) if kind is AnswerKind.POINT else draw(st.none() | box)
    corner = st.builds(Point, st.integers(0, 5000), st.integers(0, 5000), st.just(Frame.ORIGINAL))
    corners = st.lists(corner, min_size=3, max_size=4).map(tuple)
    truth = GroundTruth(
        answer=draw(st.sampled_from(choices)),
        kind=kind,
        choices=choices,
        box=box_of_truth,
        evidence=draw(st.lists(box, max_size=2).map(tuple)),
        distractors=draw(st.lists(box, max_size=2).map(tuple)),
        region=() if box_of_truth is None else draw(st.just(()) | corners),
        accepted=draw(st.lists(names, max_size=2).map(tuple)),
    )
    tags = draw(st.dictionaries(names, texts, max_size=2))
    return Example(draw(names), draw(names), pictures, truth, draw(texts), tags)
