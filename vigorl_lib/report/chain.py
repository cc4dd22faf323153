"""A chain as the learner reads it: the conversation piece by piece, and which pieces carry loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html import escape

from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Segment, Trajectory
from vigorl_lib.report.draw import thumbnail_uri

IMAGE_PX = 112


def render_chain(chain: Trajectory, title: str) -> str:
    """Segments in order; the images of the chain must hold their bytes."""
    rows = "".join(_segment(segment) for segment in chain.segments)
    return f'<article class="chain"><h4>{escape(title)}</h4>{rows}</article>'


def with_bytes(chain: Trajectory, load: Callable[[Image], Image]) -> Trajectory:
    """The chain with the bytes of its segments' images."""

    def part(value: str | Image) -> str | Image:
        return value if isinstance(value, str) else load(value)

    def message(value: Message) -> Message:
        return replace(value, parts=tuple(map(part, value.parts)))

    segments = (replace(s, messages=tuple(map(message, s.messages))) for s in chain.segments)
    return replace(chain, segments=tuple(segments))


def _segment(segment: Segment) -> str:
    style = "trained" if segment.trained else "given"
    note = "trained" if segment.trained else "context"
    if segment.origin is Origin.DEMONSTRATION and not segment.trained:
        style, note = "skipped", "shown, not trained"
    body = "".join(
        f'<div class="message"><b>{message.role.value}</b>{"".join(map(_part, message.parts))}</div>'
        for message in segment.messages
    )
    return f'<div class="segment {style}"><span>{segment.origin.value} <i>· {note}</i></span><div>{body}</div></div>'


def _part(part: str | Image) -> str:
    if isinstance(part, str):
        return f"<pre>{escape(part.strip())}</pre>" if part.strip() else ""
    size = f"{part.size.width}×{part.size.height}"
    return f'<img src="{thumbnail_uri(part, 2 * IMAGE_PX)}" width="{IMAGE_PX}" alt="image, {size} pixels">'
