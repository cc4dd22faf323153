"""A trajectory as a strip of frames, one a turn: what the policy saw, what it thought, what it did."""

from __future__ import annotations

import re
from html import escape

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Crop, FrameMap, Point
from vigorl_lib.domain.grammar import Action, Answer, Continue, Malformed, Zoom, find_points
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.report.draw import thumbnail_uri, view_uri
from vigorl_lib.report.figure import figure
from vigorl_lib.report.marks import Marks, number_points, on_original, on_view

FRAME_PX = 176
"""Width of what a turn saw, on the page."""
SCENE_PX = 288
"""Width of the original, on the page."""
MAX_VIEW_PX = 448
"""Views and crops are embedded at this side at most."""
MAX_SCENE_PX = 448

_POINT = re.compile(r"\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*\)")


def render_scene(example: Example, trajectory: Trajectory) -> str:
    """The original with everything that the trajectory pointed at, and the target."""
    image = example.images[0]
    places = ", ".join(f"{label} at ({p.x:g}, {p.y:g})" for p, label in number_points(trajectory).items())
    alt = f"The original picture. Points in the order in which they were cited: {places or 'none'}"
    uri = thumbnail_uri(image, MAX_SCENE_PX)
    return figure(uri, image.size, on_original(trajectory, image.size, example), width=SCENE_PX, alt=alt)


def render_others(example: Example) -> str:
    """The images after the first one, small; nothing where there is one image."""
    pictures = (
        figure(
            thumbnail_uri(image, MAX_VIEW_PX),
            image.size,
            Marks(),
            width=FRAME_PX,
            alt=f"Image {number} of the question",
        )
        for number, image in enumerate(example.images[1:], 2)
    )
    shown = "".join(pictures)
    return f'<div class="others">{shown}</div>' if shown else ""


def render_trajectory(trajectory: Trajectory, image: Image, title: str) -> str:
    """One policy's way to its answer, from left to right."""
    frames = FrameMap(image.size, trajectory.model_size or image.size)
    numbers = number_points(trajectory)
    parts, seen, picture = [], None, image
    for number, record in enumerate(trajectory.turns, 1):
        parts.append(_frame(record, number, numbers, frames, seen, picture))
        if record.crop is not None and record.crop_image is not None:
            seen, picture = record.crop, record.crop_image
    return (
        f'<div class="strip"><header><strong>{escape(title)}</strong>{_verdict(trajectory)}</header>'
        f'<ol class="frames">{"".join(parts)}</ol><p class="earned">{_earned(trajectory)}</p></div>'
    )


def _frame(
    record: TurnRecord, number: int, numbers: dict[Point, str], frames: FrameMap, seen: Crop | None, picture: Image
) -> str:
    """One turn under what it saw: `picture`, whole or (if `seen`) a crop."""
    size = frames.model if seen is None else seen.shown
    if seen is None:
        uri, label = view_uri(picture, size, MAX_VIEW_PX), f"first view, {size.width}×{size.height}"
    else:
        times = seen.shown.width / seen.window.width
        label = f"{seen.window.width:g}×{seen.window.height:g} of the original, ×{times:.2g}"
        uri = thumbnail_uri(picture, MAX_VIEW_PX)
    alt = f"What turn {number} saw: {label}"
    marked = figure(uri, size, on_view(record, numbers, frames, seen), width=FRAME_PX, alt=alt, style="view")
    problem = f'<p class="problem">{escape(record.invalid)}: {escape(record.detail)}</p>' if record.invalid else ""
    thought = highlight(record.turn.thought, numbers)
    return (
        f'<li>{marked}<p class="seen">{escape(label)}</p><p class="thought">{thought}</p>'
        f'<p class="action">{render_action(record.turn.action, numbers)}</p>{problem}</li>'
    )


def render_action(action: Action, numbers: dict[Point, str] | None = None) -> str:
    """What a turn does, in a word or two."""
    match action:
        case Zoom(point):
            return f"zooms to {_point(f'({point.x:g}, {point.y:g})', (numbers or {}).get(point, ''))}"
        case Answer(text):
            return f"answers <b>{escape(text)}</b>"
        case Continue():
            return "thinks on"
        case Malformed(reason, detail):
            return f'<span title="{escape(detail)}">malformed: {escape(reason.replace("_", " "))}</span>'


def highlight(thought: str, numbers: dict[Point, str] | None = None) -> str:
    """A thought, escaped, its points in colour with their numbers."""

    def mark(match: re.Match[str]) -> str:
        (point,) = find_points(match[0])
        return _point(match[0], (numbers or {}).get(point, ""))

    return _POINT.sub(mark, escape(thought.strip()))


def _point(text: str, label: str) -> str:
    badge = f"<sup>{escape(label)}</sup>" if label else ""
    return f'<span class="point">{escape(text)}{badge}</span>'


def _verdict(trajectory: Trajectory) -> str:
    right = trajectory.outcome == "correct"
    text = "right" if right else (trajectory.outcome or trajectory.stop.value).replace("_", " ")
    return f'<span class="chip {"good" if right else "bad"}">{escape(text)}</span>'


def _earned(trajectory: Trajectory) -> str:
    """Reward with its parts, and why the trajectory ended if not by an answer."""
    texts = []
    if trajectory.reward is not None:
        parts = ", ".join(f"{name} {value:g}" for name, value in sorted(trajectory.reward_parts.items()))
        texts.append(f"reward {trajectory.reward:.2f} ({parts})")
    texts.append(f"stop: {trajectory.stop.value.replace('_', ' ')}")
    return escape(" · ".join(texts))
