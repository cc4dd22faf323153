"""A chain as the learner reads it: the conversation piece by piece, and which pieces carry loss."""

from __future__ import annotations

from html import escape

from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Origin, Segment, Trajectory
from vigorl_lib.report.draw import thumbnail_uri

IMAGE_PX = 112


def render_chain(chain: Trajectory, title: str) -> str:
    """Segments in order; the images of the chain must hold their bytes."""
    rows = "".join(_segment(segment) for segment in chain.segments)
    return f'<article class="chain"><h4>{escape(title)}</h4>{rows}</article>'


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
