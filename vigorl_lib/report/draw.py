"""Pictures as bytes: a trajectory's marks painted onto its image, and small copies for the page."""

from __future__ import annotations

import base64
import io

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Box, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import DataError
from vigorl_lib.models.pixels import decode
from vigorl_lib.report.marks import Marks, on_original, place_labels

INK, WINDOW, TARGET = (22, 24, 29), (255, 255, 255), (61, 240, 148)
Color = tuple[int, int, int]
MIN_SIDE_PX = 640
"""Smaller pictures are enlarged to this side first, so that numbers stay legible."""


def annotated(trajectory: Trajectory, image: Image, example: Example | None = None) -> bytes:
    """The image with a trajectory's numbered points and crop windows and, if given, the example's target; PNG."""
    buffer = io.BytesIO()
    paint(_pixels(image), on_original(trajectory, image.size, example)).save(buffer, "PNG")
    return buffer.getvalue()


def paint(picture: PILImage.Image, marks: Marks) -> PILImage.Image:
    """Marks on a copy of the picture, enlarged if it is small."""
    scale = max(1.0, MIN_SIDE_PX / max(picture.size))
    canvas = picture.resize((round(picture.width * scale), round(picture.height * scale)), PILImage.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    unit = max(canvas.size) / MIN_SIDE_PX
    for boxes, color in ((marks.targets, TARGET), (marks.windows, WINDOW)):
        for box in boxes:
            _rectangle(pen, box, scale, unit, color)
    radius = 12 * unit
    font = ImageFont.load_default(size=round(radius * 1.35))
    places = [(spot.x * scale, spot.y * scale) for spot in marks.spots]
    for x, y in places:
        # A ring, so that what is pointed at stays visible; its number stands beside it.
        _circle(pen, x, y, 13 * unit, None, INK, 5 * unit)
        _circle(pen, x, y, 12 * unit, None, WINDOW, 2.5 * unit)
    for spot, (x, y) in zip(marks.spots, place_labels(places, Size(*canvas.size), 1.8 * radius), strict=True):
        _circle(pen, x, y, radius, INK, WINDOW, 2 * unit)
        pen.text((x, y), spot.label, fill=WINDOW, font=font, anchor="mm")
    return canvas


def thumbnail_uri(image: Image, max_side: int) -> str:
    """A copy whose longer side is at most `max_side` pixels, as a JPEG data URI."""
    picture = _pixels(image)
    picture.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)
    return _jpeg_uri(picture, 80)


def view_uri(image: Image, size: Size, max_side: int) -> str:
    """The image as a policy sees it, `size` pixels, shrunk further only if it is very large."""
    picture = _pixels(image).resize((size.width, size.height), PILImage.Resampling.BICUBIC)
    picture.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)
    return _jpeg_uri(picture, 88)


def _pixels(image: Image) -> PILImage.Image:
    if image.data is None:
        raise DataError(
            f"the image {image.sha256} has no bytes at hand; load it from storage first", reason="IMAGE_NOT_AT_HAND"
        )
    return decode(image.data)


def _jpeg_uri(picture: PILImage.Image, quality: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _rectangle(pen: ImageDraw.ImageDraw, box: Box, scale: float, unit: float, color: Color) -> None:
    x0, y0, x1, y1 = (value * scale for value in (box.x0, box.y0, box.x1, box.y1))
    # A dark line around the bright one keeps it visible on any ground.
    pen.rectangle((x0 - unit, y0 - unit, x1 + unit, y1 + unit), outline=INK, width=round(4 * unit))
    pen.rectangle((x0, y0, x1, y1), outline=color, width=round(2 * unit))


def _circle(
    pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Color | None, line: Color, width: float
) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=line, width=round(width))
