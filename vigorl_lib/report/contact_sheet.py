"""A page of samples of a data set with their boxes drawn, for a person to see whether they are where they should be.

One self-contained file: it loads nothing. What is wrong with a data set is said by `vigorl_lib.data.checks`; this only
shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.geometry import Point, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.report.draw import thumbnail_uri
from vigorl_lib.report.figure import outline, picture

SIDE_PX = 420
"""Longer side of an image on the page; it is embedded at twice as many pixels."""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
LEGEND = (
    ("truth", "box or region that is right"),
    ("evidence", "evidence"),
    ("distractor", "look-alike"),
)

_STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 28px 24px; }
.sheet article { min-width: 0; }
.sheet .picture { background: var(--panel); max-height: 420px; }
.sheet .id { color: var(--soft); font-size: .8rem; margin: 8px 0 0; overflow-wrap: anywhere; }
.sheet .question { white-space: pre-line; margin-top: 2px; overflow-wrap: anywhere; }
.sheet .answer { margin: 2px 0 6px; color: var(--soft); font-size: .92rem; overflow-wrap: anywhere; }
.sheet .answer b { color: var(--good); }
.sheet .chip { margin: 0 6px 6px 0; }
.picture polygon { fill: none; }
.picture .truth { stroke: #3df094; stroke-width: 2; }
.picture .evidence { stroke: #ffd23d; stroke-width: 2; }
.picture .distractor { stroke: #fff; stroke-width: 2; stroke-dasharray: 5 4; }
.key.truth::before { background: #3df094; } .key.evidence::before { background: #ffd23d; }
.key.distractor::before { background: none; border-top: 3px dashed var(--soft); height: 0; }
"""


def render_contact_sheet(title: str, lead: str, samples: Sequence[tuple[Example, Image]]) -> str:
    """The whole document; each example's image comes with its bytes. Raises DataError for one without."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    legend = "".join(f'<span class="key {name}">{text}</span>' for name, text in LEGEND)
    cards = "".join(_card(example, image) for example, image in samples)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}{_STYLE}</style></head><body><main>"
        f'<header class="top"><h1>{escape(title)}</h1><p>{escape(lead)}</p></header>'
        f'<p class="legend">{legend}</p><section class="sheet">{cards}</section></main></body></html>\n'
    )


def _card(example: Example, image: Image) -> str:
    more = len(example.images) - 1
    also = f", the first of {more + 1} images" if more else ""
    tags = "".join(f'<span class="chip">{escape(f"{name}: {value}")}</span>' for name, value in example.tags.items())
    size = f"{image.size.width}×{image.size.height}{also}"
    return (
        f'<article>{_picture(example, image)}<p class="id">{escape(example.example_id)} · {size}</p>'
        f'<p class="question">{escape(example.question)}</p><p class="answer">{_answer(example)}</p>{tags}</article>'
    )


def _answer(example: Example) -> str:
    truth = example.truth
    if truth.kind is AnswerKind.POINT and truth.box is not None:
        box = truth.box
        return f"a point in <b>{box.x0:g}, {box.y0:g} to {box.x1:g}, {box.y1:g}</b>"
    others = [choice for choice in truth.choices if choice != truth.answer]
    rest = f" (or {escape(', '.join(others))})" if others else ""
    return f"{truth.kind.value}: <b>{escape(truth.answer)}</b>{rest}"


def _picture(example: Example, image: Image) -> str:
    scale = SIDE_PX / max(image.size.width, image.size.height)
    shown = Size(max(1, round(image.size.width * scale)), max(1, round(image.size.height * scale)))
    truth = example.truth
    shapes = "".join(outline(box, scale, "distractor") for box in truth.distractors)
    shapes += "".join(outline(box, scale, "evidence") for box in truth.evidence)
    if truth.region:
        shapes += _polygon(truth.region, scale)
    elif truth.box is not None:
        shapes += outline(truth.box, scale, "truth")
    alt = f"The image of {example.example_id} with its boxes"
    return picture(thumbnail_uri(image, 2 * SIDE_PX), shown, shapes, alt=alt)


def _polygon(corners: Sequence[Point], scale: float) -> str:
    points = " ".join(f"{corner.x * scale:.1f},{corner.y * scale:.1f}" for corner in corners)
    return f'<polygon class="halo" points="{points}"/><polygon class="truth" points="{points}"/>'
