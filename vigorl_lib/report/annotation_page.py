"""A page on which people mark whether the points that a policy cited are right and helpful.

One self-contained file: it loads nothing, sends nothing, and saves what was marked as a JSON file
(`vigorl_lib.evaluation.annotation` reads it). Annotators see the question, the image, the thoughts, the answer and the
numbered places; they are not shown who thought so, nor whether it was right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from html import escape
from pathlib import Path

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import Answer
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.evaluation.annotation import HELPFUL, RIGHT
from vigorl_lib.report.draw import thumbnail_uri
from vigorl_lib.report.figure import figure
from vigorl_lib.report.marks import number_points, on_original
from vigorl_lib.report.trajectory import highlight, render_others

SCENE_PX = 640
"""Width of an image on the page."""
MAX_SCENE_PX = 1024
"""The image is embedded at this longer side at most."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the page may load: nothing but what it holds."""

Item = tuple[Example, Trajectory]
Load = Callable[[Image], Image]
"""Gives an image its bytes."""


def choose(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """`count` of the items that point at something, in an order that tells nothing of who said it."""
    pointing = [item for item in items if number_points(item[1])]
    return sorted(pointing, key=lambda item: random.Random(derive_seed(seed, item[1].trajectory_id)).random())[:count]


def render_annotation_page(items: Sequence[Item], load: Load) -> str:
    """The whole document."""
    folder = Path(__file__).parent
    style = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("style.css", "annotation_page.css"))
    script = (folder / "annotation_page.js").read_text(encoding="utf-8")
    frame = (folder / "annotation_page.html").read_text(encoding="utf-8")
    articles = "".join(_article(number, *item, load) for number, item in enumerate(items, 1))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Are these points right?</title><style>\n{style}</style></head>"
        f'<body class="annotation" data-page="{sha256(articles.encode()).hexdigest()}">'
        f"{frame.replace('<!-- items -->', articles)}<script>\n{script}</script></body></html>\n"
    )


def _article(number: int, example: Example, trajectory: Trajectory, load: Load) -> str:
    example = replace(example, images=tuple(map(load, example.images)))
    image = example.images[0]
    marks = replace(on_original(trajectory, image.size), windows=())
    alt = f"The image of item {number} with the places that were pointed at, numbered"
    scene = figure(thumbnail_uri(image, MAX_SCENE_PX), image.size, marks, width=SCENE_PX, alt=alt)
    numbers = number_points(trajectory)
    thoughts = "".join(f"<li>{highlight(record.turn.thought, numbers)}</li>" for record in trajectory.turns)
    action = trajectory.turns[-1].turn.action
    answer = f"<p>Answer given: <b>{escape(action.text)}</b></p>" if isinstance(action, Answer) else ""
    places = "".join(_place(f"item-{number}", label) for label in numbers.values())
    return (
        f'<article class="item" data-trajectory="{escape(trajectory.trajectory_id)}"><div class="scene">{scene}'
        f"{render_others(example)}</div>"
        f'<div><p class="eyebrow">{number}</p><h2>{escape(example.question)}</h2><ol class="thoughts">{thoughts}</ol>'
        f"{answer}{places}</div></article>"
    )


def _place(item: str, label: str) -> str:
    low, high = HELPFUL
    right = _choices(f"{item}-{label}-right", "right", RIGHT)
    helpful = _choices(f"{item}-{label}-helpful", "helpful", [str(k) for k in range(low, high + 1)])
    return (
        f'<div class="place" data-point="{escape(label)}"><span class="key spot">{escape(label)}</span>'
        f"<fieldset><legend>Is what is said of this place there?</legend>{right}</fieldset>"
        f"<fieldset><legend>Does it help to answer? <small>{low} not at all, {high} decisive</small></legend>"
        f"{helpful}</fieldset></div>"
    )


def _choices(group: str, name: str, values: Sequence[str]) -> str:
    attributes = f'type="radio" name="{escape(group)}" data-of="{name}"'
    return "".join(f'<label><input {attributes} value="{escape(value)}">{escape(value)}</label>' for value in values)
