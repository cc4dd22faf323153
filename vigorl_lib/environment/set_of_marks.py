"""Set of marks: a screenshot with a numbered frame around each element, as web-action policies are shown a page.

Drawing only. Which elements a page has, and where, is for whoever opens it to say; `vigorl_lib.domain.web_action` reads
what a policy answers and tells earlier actions. Marks of a trajectory, for people, are `vigorl_lib.report.marks`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from PIL import ImageDraw, ImageFont

from vigorl_lib.domain.geometry import Box, Frame, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError
from vigorl_lib.models.pixels import decode
from vigorl_lib.storage.images import probe

PALETTE = ("#d62728", "#1f77b4", "#2a7d2a", "#9442b8", "#a8590a", "#0c7c86", "#c2185b", "#5b5f66")
"""Frames take these in turn, so that neighbours differ; white digits can be read on each."""
FONT_PX, FRAME_PX, PADDING_PX = 14, 2, 2
"""For a screenshot of `REFERENCE_SIDE_PX`; longer sides have proportionally larger marks."""
REFERENCE_SIDE_PX = 1280

Rectangle = tuple[float, float, float, float]


def draw_marks(screenshot: Image, elements: Mapping[int, Box]) -> Image:
    """The screenshot as PNG with a frame around each element and its number beside it, in the element's color.

    `elements` are boxes in pixels of the screenshot (`Frame.ORIGINAL`) by the number that a policy will name; a box
    that sticks out is cut at the edge. Numbers keep off each other where there is room, and larger elements are drawn
    first, so that nothing hides a smaller one. Raises DataError: as `decode`, IMAGE_NOT_AT_HAND,
    and MARK_INVALID for an element that does not lie on the screenshot.
    """
    if screenshot.data is None:
        raise DataError(
            "set of marks: the screenshot has no bytes; load it from storage first", reason="IMAGE_NOT_AT_HAND"
        )
    picture = decode(screenshot.data)
    size = Size(*picture.size)
    boxes = {number: _visible(number, box, size) for number, box in elements.items()}
    scale = max(1.0, max(picture.size) / REFERENCE_SIDE_PX)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=round(FONT_PX * scale))
    colors = {number: PALETTE[index % len(PALETTE)] for index, number in enumerate(sorted(boxes))}
    for number in sorted(boxes, key=lambda one: (-_area(boxes[one]), one)):
        x0, y0, x1, y1 = boxes[number]
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colors[number], width=round(FRAME_PX * scale))
    taken: list[Rectangle] = []
    for number in sorted(boxes, key=lambda one: (_area(boxes[one]), one)):
        text = str(number)
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        padding = PADDING_PX * scale
        label = (right - left + 2 * padding, bottom - top + 2 * padding)
        x, y = place_label(boxes[number], label, size, taken)
        taken.append((x, y, x + label[0], y + label[1]))
        pen.rectangle(taken[-1], fill=colors[number])
        pen.text((x + padding - left, y + padding - top), text, fill="white", font=font)
    buffer = io.BytesIO()
    # PNG, since the small digits are what the policy has to read.
    picture.save(buffer, "PNG")
    return probe(buffer.getvalue())


def place_label(
    box: Rectangle, label: tuple[float, float], size: Size, taken: Sequence[Rectangle]
) -> tuple[float, float]:
    """Top left corner of an element's label: the first of some places at its corners that covers no other label.

    Outside of the element comes before inside, and all places are on the screenshot; without a free one, the place
    that covers least is taken.
    """
    x0, y0, x1, y1 = box
    width, height = label
    places = [
        *((x0, y0 - height), (x1 - width, y0 - height), (x0, y1), (x1 - width, y1)),
        *((x0 - width, y0), (x1, y0), (x0, y0), (x1 - width, y0), (x0, y1 - height), (x1 - width, y1 - height)),
    ]
    on_picture = [
        (min(max(x, 0.0), max(0.0, size.width - width)), min(max(y, 0.0), max(0.0, size.height - height)))
        for x, y in places
    ]
    return min(on_picture, key=lambda at: sum(_shared((*at, at[0] + width, at[1] + height), other) for other in taken))


def _visible(number: int, box: Box, size: Size) -> Rectangle:
    x0, y0, x1, y1 = max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, size.width), min(box.y1, size.height)
    if number < 0 or box.frame is not Frame.ORIGINAL or not (x0 < x1 and y0 < y1):
        raise DataError(
            f"mark {number}: expected a box in pixels of the screenshot of {size.width}x{size.height}, found "
            f"({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g}) in the frame {box.frame}; leave such elements out",
            reason="MARK_INVALID",
            number=number,
        )
    return x0, y0, x1, y1


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(one: Rectangle, other: Rectangle) -> float:
    """Area that both cover."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
