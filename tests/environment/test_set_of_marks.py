"""Marks on a screenshot: every number can be seen, and what is no element is refused."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image as PILImage
from PIL import ImageChops

from tests.models.support import flat_image
from vigorl_lib.domain.geometry import Box, Frame, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.environment.set_of_marks import draw_marks, place_label
from vigorl_lib.errors import DataError

PAGE = flat_image(640, 480, "white")


def pixels(image: Image) -> PILImage.Image:
    assert image.data is not None
    return PILImage.open(io.BytesIO(image.data)).convert("RGB")


def changed(image: Image) -> tuple[int, int, int, int] | None:
    """The smallest box around all that was drawn."""
    return ImageChops.difference(pixels(PAGE), pixels(image)).getbbox()


def test_a_mark_frames_its_element_and_leaves_its_middle_readable() -> None:
    marked = draw_marks(PAGE, {7: Box(100, 100, 200, 140)})
    assert (marked.media_type, marked.size) == ("image/png", PAGE.size)
    assert pixels(marked).getpixel((150, 120)) == (255, 255, 255)
    assert pixels(marked).getpixel((100, 130)) == pixels(marked).getpixel((199, 139)) != (255, 255, 255)
    left, top, right, bottom = changed(marked) or (0, 0, 0, 0)
    assert (left, right, bottom) == (100, 200, 140)
    assert 75 < top < 100, "the number stands above"


def test_the_same_elements_give_the_same_bytes_in_any_order_and_none_change_nothing() -> None:
    boxes = {1: Box(10, 40, 60, 80), 2: Box(300, 40, 360, 80)}
    assert draw_marks(PAGE, boxes).sha256 == draw_marks(PAGE, dict(reversed(boxes.items()))).sha256
    assert changed(draw_marks(PAGE, {})) is None


def test_every_number_is_told_apart() -> None:
    one, other = ({number: Box(100, 100, 200, 140)} for number in (17, 71))
    assert draw_marks(PAGE, one).sha256 != draw_marks(PAGE, other).sha256


def test_a_small_element_within_a_large_one_keeps_its_frame() -> None:
    large, small = Box(50, 50, 500, 400), Box(60, 60, 90, 75)
    alone = pixels(draw_marks(PAGE, {2: small}))
    both = pixels(draw_marks(PAGE, {1: large, 2: small}))
    assert both.getpixel((89, 74)) != (255, 255, 255)
    assert alone.getpixel((89, 74)) != (255, 255, 255)


def test_labels_of_a_row_of_small_elements_do_not_cover_each_other() -> None:
    label, taken = (24.0, 16.0), []
    for column in range(6):
        for row in range(3):
            box = (100.0 + 14 * column, 100.0 + 60 * row, 112.0 + 14 * column, 112.0 + 60 * row)
            x, y = place_label(box, label, Size(640, 480), taken)
            taken.append((x, y, x + label[0], y + label[1]))
    overlaps = [
        (a, b)
        for index, a in enumerate(taken)
        for b in taken[:index]
        if min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
    ]
    assert len(overlaps) <= 3, "there is room for most of them"


@pytest.mark.parametrize("box", [(0, 0, 20, 20), (620, 460, 640, 480), (0, 460, 640, 480), (0, 0, 640, 480)])
def test_a_label_stays_on_the_screenshot(box: tuple[float, float, float, float]) -> None:
    x, y = place_label(box, (30, 18), Size(640, 480), [])
    assert 0 <= x <= 610
    assert 0 <= y <= 462


def test_an_element_that_sticks_out_is_cut_at_the_edge() -> None:
    box = changed(draw_marks(PAGE, {1: Box(-50, 470, 30, 900)}))
    assert box is not None
    assert box[0] == 0
    assert box[3] == 480


@pytest.mark.parametrize(
    "box", [Box(700, 10, 720, 20), Box(10, 10, 10, 20), Box(20, 20, 10, 10), Box(1, 1, 9, 9, Frame.MODEL)]
)
def test_what_does_not_lie_on_the_screenshot_is_refused(box: Box) -> None:
    with pytest.raises(DataError, match="mark 3") as caught:
        draw_marks(PAGE, {3: box})
    assert caught.value.reason == "MARK_INVALID"


def test_a_screenshot_without_its_bytes_is_asked_for() -> None:
    with pytest.raises(DataError, match="load it from storage") as caught:
        draw_marks(replace(PAGE, data=None), {3: Box(1, 1, 9, 9)})
    assert caught.value.reason == "IMAGE_NOT_AT_HAND"


def test_a_transparent_screenshot_and_a_tiny_one_can_be_marked() -> None:
    for width, height in ((40, 30), (1, 1)):
        marked = draw_marks(flat_image(width, height), {12: Box(0, 0, width, height)})
        assert marked.size == Size(width, height)
