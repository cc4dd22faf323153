"""Synthetic visual search: seeded scenes whose small targets call for a zoom.

A scene is a noisy picture with one coloured tile and two grey ones; each tile carries a dot, and the
question asks for the colour of the dot on the coloured tile. Half of the targets are large, so that the
first view shows the dot as large as a zoom shows a small one. The dot of a small target covers about two by
two pixels of the view, which the tiny model does not learn to read; a crop of the original shows it eight
times as wide. A `Caption` is a picture without a question and a sentence about what can be seen in it;
captions give a randomly initialised model its eyes.

Everything follows from a seed alone. The background is a colour ramp, so that a patch's own look tells
where it lies: a crutch for a model without pre-training, to be named wherever results are shown.
This module draws and describes; it writes nothing to storage (`vigorl_lib.data.datasets_synthetic` does).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw

from vigorl_lib.domain.geometry import Border, Box, Frame, Point, Size, crop_window
from vigorl_lib.domain.grammar import render_point

ORIGINAL_SIZE = Size(448, 448)
"""Size of a scene, pixels."""
VIEW_SCALE = 4
"""Original pixels per pixel of the policy's first view (112x112)."""
VIEW_SIDE = ORIGINAL_SIZE.width // VIEW_SCALE
"""Side of the first view, pixels."""
ZOOM_WINDOW = 56
"""Side of the zoom window that captions imitate, original pixels (14 pixels of the view)."""
ZOOM_SHOWN = 112
"""Side at which that window is shown, pixels."""
POINT_BIN = 4
"""Points are said in steps of this many view pixels."""

TILE_COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "green": (40, 185, 60),
    "blue": (50, 80, 225),
    "yellow": (235, 220, 50),
    "orange": (240, 140, 30),
    "purple": (150, 50, 190),
}
GREY_LEVELS = (45, 200)
DOT_COLORS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "black": (10, 10, 10),
    "cyan": (30, 230, 235),
    "pink": (255, 120, 190),
}
ANSWERS = tuple(DOT_COLORS)

QUESTION = "What color is the dot on the {color} tile?"
TILE_SENTENCE = "The {color} tile is at {point}."
DOT_SENTENCE = "The dot is {answer}."
DOT_AT_SENTENCE = "The dot at {point} is {answer}."

_SIDES = {"small": (16, 20), "large": (80, 104)}
_DOT_SHARE = 0.42
_COLOR_JITTER = 10
_NOISE_SD = 14.0
_RAMP = 190.0
_MID_GREY = 125.0
_BORDER = 8
_GAP = 12
_SUPERSAMPLE = 4
_JPEG_QUALITY = 95


class SizeClass(StrEnum):
    """Whether the first view is enough to read the dot."""

    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile and its dot. `box` and `dot_box` are in the original frame; `color` is None for a grey tile."""

    box: Box
    dot_box: Box
    color: str | None
    rgb: tuple[int, int, int]
    round: bool
    dot: str

    @property
    def center(self) -> Point:
        return self.box.center


@dataclass(frozen=True, slots=True)
class Scene:
    """One question about one picture, and all that is true of it."""

    seed: int
    question: str
    answer: str
    size_class: SizeClass
    target: Tile
    distractors: tuple[Tile, ...]

    @property
    def color(self) -> str:
        """Name of the target's colour."""
        assert self.target.color is not None
        return self.target.color


@dataclass(frozen=True, slots=True)
class Caption:
    """A window of a picture and what is to be seen in it; the points are those of the whole view."""

    image: PILImage.Image
    text: str


def make_scene(seed: int) -> Scene:
    """The scene of a seed; no pixels are drawn. Large and small targets alternate with the seed's parity."""
    rng = np.random.default_rng((seed, 0))
    size_class = SizeClass.LARGE if seed % 2 else SizeClass.SMALL
    taken: list[Box] = []
    target = _tile(rng, size_class, _free_box(rng, size_class, taken), grey=False)
    taken.append(target.box)
    distractors = []
    for _ in range(2):
        box = _free_box(rng, size_class, taken)
        taken.append(box)
        distractors.append(_tile(rng, size_class, box, grey=True))
    assert target.color is not None
    return Scene(
        seed=seed,
        question=QUESTION.format(color=target.color),
        answer=target.dot,
        size_class=size_class,
        target=target,
        distractors=tuple(distractors),
    )


def render(scene: Scene) -> PILImage.Image:
    """Draw the original, RGB."""
    rng = np.random.default_rng((scene.seed, 1))
    whole = Box(0, 0, ORIGINAL_SIZE.width, ORIGINAL_SIZE.height)
    return _draw(rng, whole, (scene.target, *scene.distractors))


def encode(image: PILImage.Image) -> tuple[bytes, str]:
    """Encoded bytes and media type; the same picture always gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


def make_caption(seed: int) -> Caption:
    """A picture without a question, and a sentence that says only what can be seen in it.

    Three kinds, by the seed modulo five: the view of a whole scene (0, 1), a quarter of the view around one
    tile (2, 3), and a zoom window around one tile, enlarged as the environment shows it (4). Points are
    coordinates of the whole view, which the ramp tells.
    """
    kind = seed % 5
    scene = make_scene(seed)
    if kind < 2:
        view = render(scene).resize((VIEW_SIDE, VIEW_SIDE), PILImage.Resampling.BICUBIC)
        return Caption(view, _described(scene))
    zoomed = kind == 4
    side, shown = (ZOOM_WINDOW, ZOOM_SHOWN) if zoomed else (ORIGINAL_SIZE.width // 2, VIEW_SIDE // 2)
    rng = np.random.default_rng((seed, 2))
    reach = side / 4 if zoomed else (side - scene.target.box.width) / 2
    shift_x, shift_y = rng.uniform(-reach, reach, 2)
    middle = Point(scene.target.center.x + shift_x, scene.target.center.y + shift_y, Frame.ORIGINAL)
    window = crop_window(middle, (side, side), ORIGINAL_SIZE, Border.SHIFT)
    image = _draw(rng, window, (scene.target,)).resize((shown, shown), PILImage.Resampling.BICUBIC)
    return Caption(image, DOT_SENTENCE.format(answer=scene.answer) if zoomed else _described(scene))


def _described(scene: Scene) -> str:
    """What the view shows of a scene: where the tile is and, if that is large, its dot."""
    where = tile_sentence(scene.color, view_point(scene.target.center))
    return f"{where} {DOT_SENTENCE.format(answer=scene.answer)}" if scene.size_class is SizeClass.LARGE else where


def view_point(point: Point) -> Point:
    """A point of the original in the policy's first view, rounded to the middle of its bin."""

    def snap(value: float) -> int:
        return int(value / VIEW_SCALE // POINT_BIN) * POINT_BIN + POINT_BIN // 2

    return Point(snap(point.x), snap(point.y), Frame.MODEL)


def tile_sentence(color: str, point: Point) -> str:
    """Where a tile is, in the words that a thought uses; `point` is in the model frame."""
    return TILE_SENTENCE.format(color=color, point=render_point(point))


def _tile(rng: np.random.Generator, size_class: SizeClass, box: Box, *, grey: bool) -> Tile:
    color = None if grey else str(rng.choice(list(TILE_COLORS)))
    level = int(rng.choice(GREY_LEVELS))
    base = (level, level, level) if color is None else TILE_COLORS[color]
    jitter = rng.integers(-_COLOR_JITTER, _COLOR_JITTER + 1, 3)
    red, green, blue = (int(np.clip(value + shift, 0, 255)) for value, shift in zip(base, jitter, strict=True))
    radius = _DOT_SHARE * box.width / 2
    middle = box.center
    return Tile(
        box=box,
        dot_box=Box(middle.x - radius, middle.y - radius, middle.x + radius, middle.y + radius),
        color=color,
        rgb=(red, green, blue),
        round=bool(rng.random() < 0.5),
        dot=str(rng.choice(ANSWERS)),
    )


def _free_box(rng: np.random.Generator, size_class: SizeClass, taken: list[Box]) -> Box:
    """A square inside the picture that keeps its distance from those already taken."""
    low, high = _SIDES[size_class]
    while True:
        side = int(rng.integers(low, high + 1))
        x0, y0 = (int(v) for v in rng.integers(_BORDER, ORIGINAL_SIZE.width - _BORDER - side + 1, 2))
        if all(
            x0 + side + _GAP <= other.x0
            or other.x1 + _GAP <= x0
            or y0 + side + _GAP <= other.y0
            or other.y1 + _GAP <= y0
            for other in taken
        ):
            return Box(x0, y0, x0 + side, y0 + side)


def _draw(rng: np.random.Generator, window: Box, tiles: tuple[Tile, ...]) -> PILImage.Image:
    """The window (integer edges, original frame) of a picture with these tiles."""
    x0, y0, x1, y1 = (int(v) for v in (window.x0, window.y0, window.x1, window.y1))
    image = PILImage.fromarray(np.ascontiguousarray(_ramp()[y0:y1, x0:x1]))
    for tile in tiles:
        _paint(image, tile, x0, y0)
    noise = _noise()
    top, left = (int(v) for v in rng.integers(0, noise.shape[0] - ORIGINAL_SIZE.height + 1, 2))
    noisy = np.asarray(image, dtype=np.int16) + noise[top : top + y1 - y0, left : left + x1 - x0]
    return PILImage.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _paint(image: PILImage.Image, tile: Tile, x0: int, y0: int) -> None:
    """Draw an anti-aliased tile onto a picture whose corner lies at (x0, y0) of the original."""
    left, top = math.floor(tile.box.x0), math.floor(tile.box.y0)
    side = math.ceil(tile.box.width)
    for box, color, is_round in ((tile.box, tile.rgb, tile.round), (tile.dot_box, DOT_COLORS[tile.dot], True)):
        mask = PILImage.new("L", (side * _SUPERSAMPLE, side * _SUPERSAMPLE))
        edges = [
            (box.x0 - left) * _SUPERSAMPLE,
            (box.y0 - top) * _SUPERSAMPLE,
            (box.x1 - left) * _SUPERSAMPLE - 1,
            (box.y1 - top) * _SUPERSAMPLE - 1,
        ]
        pen = ImageDraw.Draw(mask)
        if is_round:
            pen.ellipse(edges, fill=255)
        else:
            pen.rectangle(edges, fill=255)
        image.paste(color, (left - x0, top - y0), mask.resize((side, side), PILImage.Resampling.BOX))


@lru_cache(maxsize=1)
def _ramp() -> NDArray[np.uint8]:
    """Background (448, 448, 3): red rises to the right, green downwards."""
    height, width = ORIGINAL_SIZE.height, ORIGINAL_SIZE.width
    ramp = np.full((height, width, 3), _MID_GREY)
    ramp[..., 0] += _RAMP * ((np.arange(width)[None, :] + 0.5) / width - 0.5)
    ramp[..., 1] += _RAMP * ((np.arange(height)[:, None] + 0.5) / height - 0.5)
    return ramp.astype(np.uint8)


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    """One sheet (1024, 1024, 3) of pixel noise; a picture takes a window of it, which is cheaper than drawing anew."""
    noise: NDArray[np.int16] = (
        np.random.default_rng(0).standard_normal((1024, 1024, 3), dtype=np.float32) * _NOISE_SD
    ).astype(np.int16)
    return noise
