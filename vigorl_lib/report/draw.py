"""Pictures for people: numbered points, target boxes and crop windows drawn onto the original."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from vigorl_lib.domain.geometry import Box, Frame, FrameMap, Point, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.models.pixels import decode

POINT_COLOR, WINDOW_COLOR, TARGET_COLOR = (255, 59, 92), (255, 255, 255), (0, 210, 120)
MIN_SIDE_PX = 640
"""Small pictures are enlarged to this side first, so that numbers stay legible."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What to draw; everything in the original frame."""

    points: tuple[Point, ...] = ()
    windows: tuple[Box, ...] = ()
    targets: tuple[Box, ...] = ()


def annotated(trajectory: Trajectory, image: Image, targets: tuple[Box, ...] = ()) -> bytes:
    """The image with a trajectory's numbered points and crop windows, as PNG."""
    picture = mark(_decoded(image), marks_of(trajectory, image.size, targets))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def marks_of(trajectory: Trajectory, original: Size, targets: tuple[Box, ...] = ()) -> Marks:
    """Each turn's last point, in order and without repeats, and the windows that were shown."""
    frames = FrameMap(original, trajectory.model_size or original)
    cited: list[Point] = []
    for record in trajectory.turns:
        # An answer usually names the point of the zoom before it again.
        cited += [point for point in record.turn.cited[-1:] if point not in cited[-1:]]
    windows = tuple(record.crop.window for record in trajectory.turns if record.crop is not None)
    return Marks(tuple(frames.point(point, Frame.ORIGINAL) for point in cited), windows, targets)


def mark(picture: PILImage.Image, marks: Marks) -> PILImage.Image:
    """Draw onto an enlarged copy."""
    scale = max(1.0, MIN_SIDE_PX / max(picture.size))
    canvas = picture.resize((round(picture.width * scale), round(picture.height * scale)), PILImage.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    for box in marks.targets:
        _rectangle(pen, box, scale, TARGET_COLOR)
    for box in marks.windows:
        _rectangle(pen, box, scale, WINDOW_COLOR)
    points = [(point.x * scale, point.y * scale) for point in marks.points]
    if len(points) > 1:
        pen.line(points, fill=POINT_COLOR, width=2)
    radius = max(7, round(max(canvas.size) / 70))
    font = ImageFont.load_default(size=round(radius * 1.7))
    for number, (x, y) in enumerate(points, 1):
        # A ring, so that what is pointed at stays visible; its number stands beside it.
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline="white", width=4)
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=POINT_COLOR, width=2)
        pen.text(
            (x + radius * 1.2, y - radius * 1.2),
            str(number),
            POINT_COLOR,
            font,
            "mm",
            stroke_width=3,
            stroke_fill="white",
        )
    return canvas


def data_uri(picture: PILImage.Image, *, quality: int = 82) -> str:
    """A picture as a JPEG data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_uri(image: Image) -> str:
    """An encoded image as a data URI, bytes unchanged."""
    data = image.data if image.data is not None else b""
    return f"data:{image.media_type};base64," + base64.b64encode(data).decode()


def _decoded(image: Image) -> PILImage.Image:
    return decode(image.data if image.data is not None else b"")


def picture_uri(image: Image, marks: Marks) -> str:
    """An image with its marks as a data URI."""
    return data_uri(mark(_decoded(image), marks))


def _rectangle(pen: ImageDraw.ImageDraw, box: Box, scale: float, color: tuple[int, int, int]) -> None:
    edges = (box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    # A dark line under the bright one keeps it visible on any ground.
    pen.rectangle([edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1], outline=(0, 0, 0), width=4)
    pen.rectangle(edges, outline=color, width=2)
