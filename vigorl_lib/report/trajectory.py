"""A trajectory as HTML: turns with thoughts, points, actions and crops, the answer, and what it earned."""

from __future__ import annotations

import re
from html import escape

from vigorl_lib.domain.grammar import Answer, Continue, Malformed, Zoom, render_point
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.report.draw import image_uri

_POINT = re.compile(r"\(\s*-?\d+(?:\.\d+)?\s*,\s*-?\d+(?:\.\d+)?\s*\)")


def render_trajectory(trajectory: Trajectory, title: str) -> str:
    """One policy's way to its answer."""
    right = trajectory.outcome == "correct"
    verdict = "right" if right else (trajectory.outcome or trajectory.stop.value).replace("_", " ")
    parts = " · ".join(f"{name} {value:g}" for name, value in trajectory.reward_parts.items())
    turns = "".join(f"<li>{render_turn(record, number)}</li>" for number, record in enumerate(trajectory.turns, 1))
    reward = f"<small>reward {trajectory.reward:.2f} ({parts})</small>" if trajectory.reward is not None else ""
    chip = f'<span class="chip {"good" if right else "bad"}">{escape(verdict)}</span>'
    return f'<div><strong>{escape(title)}</strong> {chip}<ol class="turns">{turns}</ol>{reward}</div>'


def render_turn(record: TurnRecord, number: int) -> str:
    """Thought, action and, after a zoom, the crop."""
    thought = highlight(record.turn.thought)
    crop = ""
    if record.crop_image is not None and record.crop_image.data is not None:
        alt = f"crop {number} around {render_point(record.turn.cited[-1])}"
        crop = f'<img class="crop" src="{image_uri(record.crop_image)}" alt="{escape(alt)}">'
    problem = f'<p class="action">{escape(record.invalid)}: {escape(record.detail)}</p>' if record.invalid else ""
    return f'<p class="thought">{thought}</p><p class="action">{action_text(record)}</p>{problem}{crop}'


def action_text(record: TurnRecord) -> str:
    """What the turn does, in a word, as HTML."""
    match record.turn.action:
        case Zoom(point):
            return f'zooms to <span class="point">{render_point(point)}</span>'
        case Answer(text):
            return f"answers <b>{escape(text)}</b>"
        case Continue():
            return "thinks on"
        case Malformed(reason, _):
            return f"malformed ({escape(reason)})"


def highlight(thought: str) -> str:
    """Escaped text with its points in colour."""
    return _POINT.sub(lambda match: f'<span class="point">{match[0]}</span>', escape(thought.strip()))
