"""What to mark on a picture of a trajectory: numbered spots, crop windows, targets.

Plain geometry, in the pixels of the picture that is marked. `draw` paints marks into a PNG, `figure` lays
them over a picture in the page; both therefore mark the same things.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Box, Crop, Frame, FrameMap, Point, Size
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.evaluation.behaviours import evidence_of


@dataclass(frozen=True, slots=True)
class Spot:
    """A labelled place; `style` is a class of the page (`good`, `bad`) or empty."""

    x: float
    y: float
    label: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    spots: tuple[Spot, ...] = ()
    windows: tuple[Box, ...] = ()
    targets: tuple[Box, ...] = ()


def number_points(trajectory: Trajectory) -> dict[Point, str]:
    """Every cited point with its number: places in the order in which they were first cited."""
    numbers: dict[Point, str] = {}
    for record in trajectory.turns:
        for point in record.turn.cited:
            numbers.setdefault(point, str(len(numbers) + 1))
    return numbers


def on_original(trajectory: Trajectory, original: Size, example: Example | None = None) -> Marks:
    """All points and windows of a trajectory and, where it is known, the target; pixels of the original."""
    frames = FrameMap(original, trajectory.model_size or original)
    spots = tuple(_spot(frames.point(p, Frame.ORIGINAL), label) for p, label in number_points(trajectory).items())
    windows = tuple(record.crop.window for record in trajectory.turns if record.crop is not None)
    return Marks(spots, windows, () if example is None else evidence_of(example))


def on_view(record: TurnRecord, numbers: dict[Point, str], frames: FrameMap, seen: Crop | None) -> Marks:
    """What one turn points at and zooms to, in pixels of what it saw: the whole view, or the crop `seen`."""

    def place(point: Point) -> Point:
        if seen is None:
            return frames.point(point, Frame.MODEL)
        return Point(*seen.from_original(frames.point(point, Frame.ORIGINAL)))

    size = frames.model if seen is None else seen.shown
    spots = (_spot(place(point), numbers[point]) for point in dict.fromkeys(record.turn.cited))
    inside = tuple(spot for spot in spots if 0 <= spot.x < size.width and 0 <= spot.y < size.height)
    # A window inside a crop is about as large as the crop: drawn there it would say nothing.
    windows = (frames.box(record.crop.window, Frame.MODEL),) if record.crop is not None and seen is None else ()
    return Marks(inside, windows)


def place_labels(places: Sequence[tuple[float, float]], size: Size, reach: float) -> list[tuple[float, float]]:
    """Where each place's label goes: the corner beside it that lies farthest from all else and on the picture."""
    labels: list[tuple[float, float]] = []
    for x, y in places:
        corners = [(x + dx * reach, y + dy * reach) for dx, dy in ((1, -1), (-1, 1), (-1, -1), (1, 1))]
        inside = [(u, v) for u, v in corners if reach <= u <= size.width - reach and reach <= v <= size.height - reach]
        taken = [place for place in (*places, *labels) if place != (x, y)]
        # Beyond a few label widths a neighbour does not matter, so lone places are all labelled alike.
        labels.append(max(inside or corners, key=lambda at: min((4 * reach, *(math.dist(at, t) for t in taken)))))
    return labels


def _spot(point: Point, label: str) -> Spot:
    return Spot(point.x, point.y, label)
