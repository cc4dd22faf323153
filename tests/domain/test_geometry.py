from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vigorl_lib.domain.geometry import (
    Border,
    Box,
    Crop,
    Frame,
    FrameMap,
    Point,
    ResizeRule,
    Size,
    crop_window,
    smart_resize,
)
from vigorl_lib.errors import DataError

sides = st.integers(28, 4000)
sizes = st.builds(Size, sides, sides).filter(lambda s: max(s.width, s.height) <= 200 * min(s.width, s.height))
shares = st.floats(0, 1, exclude_max=True)


@given(original=sizes, model=sizes, x=shares, y=shares, source=st.sampled_from(Frame), target=st.sampled_from(Frame))
def test_mapping_to_another_frame_and_back_is_the_identity(
    original: Size, model: Size, x: float, y: float, source: Frame, target: Frame
) -> None:
    frames = FrameMap(original, model)
    width, height = frames.extent(source)
    point = Point(x * width, y * height, source)
    back = frames.point(frames.point(point, target), source)
    assert back.frame is source
    assert back.distance(point) < 1e-6
    box = Box(0, 0, point.x, point.y, source)
    returned = frames.box(frames.box(box, target), source)
    assert math.isclose(returned.x1, box.x1, abs_tol=1e-6)
    assert math.isclose(returned.y1, box.y1, abs_tol=1e-6)


@given(
    image=sizes,
    x=shares,
    y=shares,
    window=st.tuples(st.integers(2, 800), st.integers(2, 800)),
    shown=st.builds(Size, st.integers(28, 1000), st.integers(28, 1000)),
    border=st.sampled_from(Border),
)
def test_a_point_mapped_into_a_crop_and_back_is_the_same_point(
    image: Size, x: float, y: float, window: tuple[int, int], shown: Size, border: Border
) -> None:
    center = Point(x * image.width, y * image.height, Frame.ORIGINAL)
    crop = Crop(crop_window(center, window, image, border), shown)
    px, py = crop.from_original(center)
    assert crop.to_original(px, py).distance(center) < 1e-6
    assert -1e-6 <= px <= shown.width + 1e-6
    assert -1e-6 <= py <= shown.height + 1e-6
    # A whole pixel of the crop comes back to itself too.
    assert crop.from_original(crop.to_original(3.0, 5.0)) == pytest.approx((3.0, 5.0))


@given(
    image=sizes,
    x=st.floats(-1, 2),
    y=st.floats(-1, 2),
    window=st.tuples(st.floats(0.1, 5000), st.floats(0.1, 5000)),
    border=st.sampled_from(Border),
)
def test_a_window_lies_inside_the_image_on_whole_pixels(
    image: Size, x: float, y: float, window: tuple[float, float], border: Border
) -> None:
    box = crop_window(Point(x * image.width, y * image.height, Frame.ORIGINAL), window, image, border)
    assert 0 <= box.x0 < box.x1 <= image.width
    assert 0 <= box.y0 < box.y1 <= image.height
    assert all(float(edge).is_integer() for edge in (box.x0, box.y0, box.x1, box.y1))
    wanted = (max(1, round(window[0])), max(1, round(window[1])))
    if border is Border.SHIFT:
        assert (box.width, box.height) == (min(wanted[0], image.width), min(wanted[1], image.height))
    else:
        assert box.width <= wanted[0]
        assert box.height <= wanted[1]


@given(image=sizes, x=shares, y=shares, side=st.integers(2, 400))
def test_a_window_around_a_point_of_the_image_shows_it(image: Size, x: float, y: float, side: int) -> None:
    center = Point(x * image.width, y * image.height, Frame.ORIGINAL)
    for border in Border:
        box = crop_window(center, (side, side), image, border)
        assert box.x0 <= center.x <= box.x1
        assert box.y0 <= center.y <= box.y1


def test_at_an_edge_shift_keeps_the_size_and_clamp_cuts_it() -> None:
    corner, image = Point(2, 99, Frame.ORIGINAL), Size(100, 100)
    assert crop_window(corner, (20, 20), image, Border.SHIFT) == Box(0, 80, 20, 100)
    assert crop_window(corner, (20, 20), image, Border.CLAMP) == Box(0, 89, 12, 100)
    middle = Point(50, 50, Frame.ORIGINAL)
    for border in Border:
        assert crop_window(middle, (20, 10), image, border) == Box(40, 45, 60, 55)


@settings(deadline=None)  # The first example pays the import.
@given(size=sizes, factor=st.sampled_from([28, 32]), low=st.integers(1, 64), more=st.integers(4, 400))
def test_the_resize_rule_is_that_of_the_released_processor(size: Size, factor: int, low: int, more: int) -> None:
    pil = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    limits = {"min_pixels": low * factor**2, "max_pixels": (low + more) * factor**2}
    height, width = pil.smart_resize(size.height, size.width, factor=factor, **limits)
    assert smart_resize(size, factor=factor, **limits) == Size(width, height)


@given(size=sizes, factor=st.sampled_from([28, 32]), low=st.integers(1, 64), more=st.integers(300, 900))
def test_a_resized_image_has_whole_tokens_within_the_limits(size: Size, factor: int, low: int, more: int) -> None:
    rule = ResizeRule(factor, low * factor**2, (low + more) * factor**2)
    model = rule.model_size(size)
    assert model.width % factor == model.height % factor == 0
    assert rule.min_pixels <= model.area <= rule.max_pixels
    assert rule.visual_tokens(size) * factor**2 == model.area


@pytest.mark.parametrize(
    ("rule", "size", "model", "tokens"),
    [
        (ResizeRule(28), Size(1260, 709), Size(1260, 700), 1125),
        (ResizeRule(28), Size(28, 28), Size(56, 56), 4),
        (ResizeRule(28, 3136, 1_003_520), Size(1920, 1080), Size(1316, 728), 1222),
        (ResizeRule(28, 784, 12_544), Size(448, 448), Size(112, 112), 16),
        (ResizeRule(32, 65_536, 16_777_216), Size(1260, 709), Size(1248, 704), 858),
        (ResizeRule(32, 65_536, 16_777_216), Size(100, 100), Size(256, 256), 64),
    ],
)
def test_known_sizes_have_known_token_counts(rule: ResizeRule, size: Size, model: Size, tokens: int) -> None:
    assert rule.model_size(size) == model
    assert rule.visual_tokens(size) == tokens


@pytest.mark.parametrize(
    ("size", "reason"),
    [(Size(0, 5), "IMAGE_EMPTY"), (Size(5, -1), "IMAGE_EMPTY"), (Size(201, 1), "IMAGE_ASPECT_RATIO")],
)
def test_a_size_that_no_processor_takes_is_refused(size: Size, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        ResizeRule().model_size(size)
    assert caught.value.reason == reason
    assert f"{size.width}x{size.height}" in caught.value.message


def test_coordinates_of_different_frames_are_never_compared() -> None:
    with pytest.raises(DataError) as caught:
        Point(1, 1, Frame.MODEL).distance(Point(1, 1, Frame.NORMALIZED))
    assert caught.value.reason == "FRAME_MISMATCH"
    with pytest.raises(DataError):
        Box(0, 0, 9, 9, Frame.ORIGINAL).contains(Point(1, 1, Frame.MODEL))
    with pytest.raises(DataError):
        Crop(Box(0, 0, 9, 9), Size(28, 28)).from_original(Point(1, 1, Frame.MODEL))


def test_boxes_and_images_are_half_open() -> None:
    box = Box(10, 20, 30, 40)
    assert box.contains(Point(10, 20, Frame.ORIGINAL))
    assert not box.contains(Point(30, 20, Frame.ORIGINAL))
    assert not box.contains(Point(10, 40, Frame.ORIGINAL))
    assert box.center == Point(20, 30, Frame.ORIGINAL)
    frames = FrameMap(Size(200, 100), Size(56, 28))
    assert frames.inside(Point(55.9, 27.9, Frame.MODEL))
    assert not frames.inside(Point(56, 3, Frame.MODEL))
    assert not frames.inside(Point(-0.1, 3, Frame.MODEL))
    assert frames.inside(Point(999, 999, Frame.NORMALIZED))
    assert not frames.inside(Point(1000, 0, Frame.NORMALIZED))


def test_the_normalized_frame_runs_to_a_thousand_on_both_axes() -> None:
    frames = FrameMap(Size(200, 100), Size(56, 28))
    assert frames.point(Point(100, 25, Frame.ORIGINAL), Frame.NORMALIZED) == Point(500, 250, Frame.NORMALIZED)
