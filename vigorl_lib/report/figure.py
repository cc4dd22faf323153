"""A picture in the page with its marks laid over it as SVG, so that numbers stay sharp at any size."""

from __future__ import annotations

from html import escape

from vigorl_lib.domain.geometry import Box, Size
from vigorl_lib.report.marks import Marks, Spot, place_labels

RING, BADGE = 6, 7.5
"""Radii of a spot and of its number, in pixels of the page."""


def figure(uri: str, size: Size, marks: Marks, *, width: int, alt: str, style: str = "") -> str:
    """The picture `uri`, whose marks are in pixels of `size`, drawn `width` pixels wide."""
    scale = width / size.width
    shown = Size(width, round(size.height * scale))
    boxes = [outline(box, scale, "target") for box in marks.targets]
    boxes += [outline(box, scale, "window") for box in marks.windows]
    places = [(spot.x * scale, spot.y * scale) for spot in marks.spots]
    rings = "".join(_ring(x, y) for x, y in places)
    labels = place_labels(places, shown, 1.7 * BADGE)
    badges = "".join(_badge(spot, x, y) for spot, (x, y) in zip(marks.spots, labels, strict=True))
    return picture(uri, shown, f"{''.join(boxes)}{rings}{badges}", alt=alt, style=style)


def picture(uri: str, shown: Size, shapes: str, *, alt: str, style: str = "") -> str:
    """The picture `uri`, drawn as large as `shown`, below SVG `shapes` in its pixels."""
    return (
        f'<svg class="picture {style}" viewBox="0 0 {shown.width} {shown.height}" role="img" '
        f'aria-label="{escape(alt)}">'
        f'<image href="{uri}" width="{shown.width}" height="{shown.height}" preserveAspectRatio="none"/>{shapes}</svg>'
    )


def outline(box: Box, scale: float, style: str) -> str:
    """The edges of a box, with a halo that shows on any ground."""
    x, y, w, h = (f"{value * scale:.1f}" for value in (box.x0, box.y0, box.width, box.height))
    edges = f'x="{x}" y="{y}" width="{w}" height="{h}" rx="1.5"'
    return f'<rect class="halo" {edges}/><rect class="{style}" {edges}/>'


def _ring(x: float, y: float) -> str:
    # A ring, so that what is pointed at stays visible; its number stands beside it.
    ring = f'cx="{x:.1f}" cy="{y:.1f}" r="{RING}"'
    return f'<circle class="ring halo" {ring}/><circle class="ring" {ring}/>'


def _badge(spot: Spot, x: float, y: float) -> str:
    return (
        f'<g class="spot {spot.style}"><circle class="badge" cx="{x:.1f}" cy="{y:.1f}" r="{BADGE}"/>'
        f'<text x="{x:.1f}" y="{y + 3.4:.1f}">{escape(spot.label)}</text></g>'
    )
