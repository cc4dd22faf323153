"""Points, boxes and sizes in named frames, and the exact maps between the frames.

Three frames (`Frame`): `original` is the stored file with its EXIF orientation applied, `model` is
what the policy sees after `smart_resize`, `normalized` is 0..1000 on both axes. A point or a box
always knows its frame, and a point always refers to the full image, never to a crop. Coordinates
are continuous: pixel (i, j) covers [i, i+1) x [j, j+1). Boxes are half open, x0 y0 x1 y1.

This module is arithmetic only: it opens no image and knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from vigorl_lib.errors import DataError

NORMALIZED_EXTENT = 1000
"""Both axes of the normalized frame run from 0 to this value."""

MAX_ASPECT_RATIO = 200
"""Qwen's processors refuse images whose longer side exceeds the shorter by more than this factor."""


class Frame(StrEnum):
    ORIGINAL = "original"
    MODEL = "model"
    NORMALIZED = "normalized"


class Border(StrEnum):
    """What a crop window does at the edge of the image."""

    SHIFT = "shift"
    """Move the window inside; its size, and so the magnification, is kept."""
    CLAMP = "clamp"
    """Cut the window off at the edge; the crop becomes smaller and non-square (the paper's code)."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    frame: Frame = Frame.MODEL

    def distance(self, other: Point) -> float:
        """Euclidean distance in the common frame's units."""
        _same_frame(self.frame, other.frame)
        return math.hypot(self.x - other.x, self.y - other.y)


@dataclass(frozen=True, slots=True)
class Box:
    x0: float
    y0: float
    x1: float
    y1: float
    frame: Frame = Frame.ORIGINAL

    @property
    def width(self) -> float:
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        return self.y1 - self.y0

    @property
    def center(self) -> Point:
        return Point((self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2, self.frame)

    def contains(self, point: Point) -> bool:
        _same_frame(self.frame, point.frame)
        return self.x0 <= point.x < self.x1 and self.y0 <= point.y < self.y1


def in_polygon(point: Point, corners: Sequence[Point]) -> bool:
    """Whether a point lies inside the polygon with these corners, in their order; by the even-odd rule."""
    inside = False
    for a, b in zip(corners, (*corners[1:], corners[0]), strict=True):
        _same_frame(a.frame, point.frame)
        if (a.y > point.y) != (b.y > point.y):
            inside ^= point.x < a.x + (point.y - a.y) * (b.x - a.x) / (b.y - a.y)
    return inside


def _same_frame(a: Frame, b: Frame) -> None:
    if a != b:
        raise DataError(f"coordinates of frame {a} and {b} cannot be compared; map one first", reason="FRAME_MISMATCH")


@dataclass(frozen=True, slots=True)
class ResizeRule:
    """How a model family rounds an image to whole visual tokens.

    `factor` is the side in pixels of one visual token: patch size times spatial merge (28 for
    Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL). Pixel limits are areas.
    """

    factor: int = 28
    min_pixels: int = 3_136
    max_pixels: int = 12_845_056

    def model_size(self, original: Size) -> Size:
        return smart_resize(original, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def visual_tokens(self, original: Size) -> int:
        """Number of image tokens that the language model sees."""
        size = self.model_size(original)
        return (size.width // self.factor) * (size.height // self.factor)


# Every turn of every conversation about an image asks for the same one.
@lru_cache(maxsize=4096)
def smart_resize(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Nearest size whose sides are multiples of `factor` and whose area is within the limits.

    The rule of the Qwen2-VL family's image processors: round both sides; if the area is then too
    large, shrink by the square root of the excess and round down; if too small, grow and round up.
    Raises DataError (IMAGE_ASPECT_RATIO, IMAGE_EMPTY) where no such size exists.
    """
    if size.width <= 0 or size.height <= 0:
        raise DataError(f"image size must be positive, found {size.width}x{size.height}", reason="IMAGE_EMPTY")
    if max(size.width, size.height) / min(size.width, size.height) > MAX_ASPECT_RATIO:
        raise DataError(
            f"image sides must not differ by more than a factor of {MAX_ASPECT_RATIO}, "
            f"found {size.width}x{size.height}; crop or pad the image",
            reason="IMAGE_ASPECT_RATIO",
        )
    width, height = round(size.width / factor) * factor, round(size.height / factor) * factor
    if width * height > max_pixels:
        shrink = math.sqrt(size.area / max_pixels)
        width = max(factor, math.floor(size.width / shrink / factor) * factor)
        height = max(factor, math.floor(size.height / shrink / factor) * factor)
    elif width * height < min_pixels:
        grow = math.sqrt(min_pixels / size.area)
        width = math.ceil(size.width * grow / factor) * factor
        height = math.ceil(size.height * grow / factor) * factor
    return Size(width, height)


@dataclass(frozen=True, slots=True)
class FrameMap:
    """Exact linear maps between the frames of one image."""

    original: Size
    model: Size

    def extent(self, frame: Frame) -> tuple[float, float]:
        """Width and height of the full image in `frame`."""
        if frame is Frame.NORMALIZED:
            return NORMALIZED_EXTENT, NORMALIZED_EXTENT
        size = self.original if frame is Frame.ORIGINAL else self.model
        return size.width, size.height

    def point(self, point: Point, frame: Frame) -> Point:
        sx, sy = self._scale(point.frame, frame)
        return Point(point.x * sx, point.y * sy, frame)

    def box(self, box: Box, frame: Frame) -> Box:
        sx, sy = self._scale(box.frame, frame)
        return Box(box.x0 * sx, box.y0 * sy, box.x1 * sx, box.y1 * sy, frame)

    def inside(self, point: Point) -> bool:
        """True if the point lies on the image."""
        width, height = self.extent(point.frame)
        return 0 <= point.x < width and 0 <= point.y < height

    def _scale(self, source: Frame, target: Frame) -> tuple[float, float]:
        source_w, source_h = self.extent(source)
        target_w, target_h = self.extent(target)
        return target_w / source_w, target_h / source_h


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of the original and the size that it is shown at.

    `window` has integer edges in the original frame. `shown` is the size of the picture that the
    policy gets, so `shown.width / window.width` is the magnification.
    """

    window: Box
    shown: Size

    def to_original(self, x: float, y: float) -> Point:
        """Map a pixel of the shown crop to the original frame."""
        return Point(
            self.window.x0 + x * self.window.width / self.shown.width,
            self.window.y0 + y * self.window.height / self.shown.height,
            Frame.ORIGINAL,
        )

    def from_original(self, point: Point) -> tuple[float, float]:
        """Map a point of the original frame to pixels of the shown crop."""
        _same_frame(point.frame, Frame.ORIGINAL)
        return (
            (point.x - self.window.x0) * self.shown.width / self.window.width,
            (point.y - self.window.y0) * self.shown.height / self.window.height,
        )


def crop_window(center: Point, size: tuple[float, float], image: Size, border: Border) -> Box:
    """Window of `size` (width, height) around `center`, both in the frame of `image`.

    Edges are integers. With SHIFT a window that sticks out is moved inside, and one that is larger
    than the image is cut to it; with CLAMP it is cut at the edge and is at least one pixel wide.
    """
    x0, x1 = _span(center.x, size[0], image.width, border)
    y0, y1 = _span(center.y, size[1], image.height, border)
    return Box(x0, y0, x1, y1, center.frame)


def _span(center: float, length: float, limit: int, border: Border) -> tuple[int, int]:
    wanted = max(1, round(length))
    start = round(center - wanted / 2)
    if border is Border.SHIFT:
        wanted = min(wanted, limit)
        start = min(max(start, 0), limit - wanted)
        return start, start + wanted
    low = min(max(start, 0), limit - 1)
    high = max(min(start + wanted, limit), low + 1)
    return low, high
