"""What the wire can hold: segments whose spans name their own images and whose log-probs are 32-bit floats."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from tests.data.strategies import images, texts, trajectories
from vigorl_lib.domain.trajectory import ImageSpan, Message, Origin, Role, Segment, Trajectory

log_probabilities = st.floats(max_value=0.0, allow_nan=False, allow_infinity=False, width=32)
messages = st.builds(Message, st.sampled_from(Role), st.lists(texts | images, max_size=3).map(tuple))


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    bare = Segment(
        origin=draw(st.sampled_from(Origin)),
        messages=draw(st.lists(messages, max_size=3).map(tuple)),
        policy_version=draw(st.integers(-1, 1000)),
        trained=draw(st.booleans()),
    )
    if draw(st.booleans()):
        return bare
    token_ids = draw(st.lists(st.integers(0, 200_000), max_size=6).map(tuple))
    count = len(token_ids)
    spans = []
    for image in bare.images if count else ():
        start = draw(st.integers(0, count - 1))
        spans.append(ImageSpan(start, draw(st.integers(1, count - start)), image))
    logprobs = draw(st.just(()) | st.lists(log_probabilities, min_size=count, max_size=count).map(tuple))
    return replace(bare.rendered(token_ids, tuple(spans)), logprobs=logprobs)


@st.composite
def wire_trajectories(draw: st.DrawFn) -> Trajectory:
    return replace(
        draw(trajectories),
        segments=draw(st.lists(segments(), max_size=3).map(tuple)),
        seconds=draw(st.integers(0, 10**9)) / 1e6,
    )
