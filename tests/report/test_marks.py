"""What is marked on pictures, and where."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from tests.pictures import encoded
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Crop, FrameMap, Point, Size
from vigorl_lib.domain.grammar import Answer, Turn, Zoom
from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import DataError
from vigorl_lib.report.draw import annotated
from vigorl_lib.report.marks import number_points, on_original, on_view, place_labels
from vigorl_lib.storage.images import probe

WINDOW = Box(160, 160, 240, 240)
ZOOM = TurnRecord(
    Turn("It is at (50, 50).", (Point(50, 50),), Zoom(Point(50, 50))), "", "stop", crop=Crop(WINDOW, Size(160, 160))
)
ANSWER = TurnRecord(Turn("At (55, 50).", (Point(55, 50),), Answer("pink")), "", "stop")
SEEN = Trajectory("t", "e", "multi_turn", "p", (), (ZOOM, ANSWER), StopReason.ANSWERED, model_size=Size(100, 100))
IMAGE = probe(encoded(400, 400))


def test_places_are_numbered_as_they_were_first_cited() -> None:
    assert number_points(SEEN) == {Point(50, 50): "1", Point(55, 50): "2"}


def test_marks_on_the_original_are_in_its_pixels() -> None:
    example = Example("e", "?", (IMAGE,), GroundTruth("pink", evidence=(Box(190, 190, 210, 210),)))
    marks = on_original(SEEN, IMAGE.size, example)
    assert [(spot.x, spot.y, spot.label) for spot in marks.spots] == [(200, 200, "1"), (220, 200, "2")]
    assert (marks.windows, marks.targets) == ((WINDOW,), example.truth.evidence)


def test_a_view_shows_the_window_that_its_turn_asked_for() -> None:
    frames, numbers = FrameMap(IMAGE.size, Size(100, 100)), number_points(SEEN)
    marks = on_view(ZOOM, numbers, frames, None)
    assert [(spot.x, spot.y) for spot in marks.spots] == [(50, 50)]
    assert [(box.x0, box.y1) for box in marks.windows] == [(40, 60)]


def test_a_crop_shows_points_at_their_magnified_place_and_leaves_out_those_beyond_it() -> None:
    frames, numbers = FrameMap(IMAGE.size, Size(100, 100)), number_points(SEEN)
    marks = on_view(ANSWER, numbers, frames, ZOOM.crop)
    assert [(spot.x, spot.y, spot.label) for spot in marks.spots] == [(120, 80, "2")]
    far = replace(ANSWER, turn=replace(ANSWER.turn, points=(Point(90, 90),)))
    assert on_view(far, {Point(90, 90): "3"}, frames, ZOOM.crop).spots == ()


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=8))
def test_labels_stay_on_the_picture_beside_their_places(places: list[tuple[float, float]]) -> None:
    reach = 12.0
    labels = place_labels(places, Size(300, 200), reach)
    assert len(labels) == len(places)
    for (x, y), (u, v) in zip(places, labels, strict=True):
        assert (abs(u - x), abs(v - y)) == (pytest.approx(reach), pytest.approx(reach))
        if 2 * reach <= x <= 300 - 2 * reach and 2 * reach <= y <= 200 - 2 * reach:
            assert reach <= u <= 300 - reach
            assert reach <= v <= 200 - reach


def test_labels_of_near_places_do_not_cover_each_other() -> None:
    first, second = place_labels([(100, 100), (106, 94)], Size(300, 200), 12)
    assert abs(first[0] - second[0]) + abs(first[1] - second[1]) > 2 * 12


def test_an_annotated_picture_is_enlarged_and_marked_where_it_was_pointed_at() -> None:
    picture = PILImage.open(io.BytesIO(annotated(SEEN, IMAGE)))
    assert (picture.format, picture.size) == ("PNG", (640, 640))
    pixels = np.asarray(picture)
    # The point keeps its own look; ring, number and window around it do not.
    assert tuple(pixels[320, 320]) == (0, 0, 0)
    around = pixels[256:384, 256:384]
    assert (around == 255).all(axis=-1).any()
    assert (pixels[500:] == 0).all()


def test_a_large_picture_keeps_its_size() -> None:
    image = probe(encoded(900, 700))
    assert PILImage.open(io.BytesIO(annotated(replace(SEEN, model_size=None), image))).size == (900, 700)


def test_a_picture_without_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="load it from storage"):
        annotated(SEEN, IMAGE.without_data())
