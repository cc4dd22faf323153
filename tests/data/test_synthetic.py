"""Scenes: determinism, ground truth that the pixels bear out, and what the first view can and cannot show."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from vigorl_lib.data import synthetic
from vigorl_lib.data.synthetic import SizeClass, Tile
from vigorl_lib.domain.geometry import Border, Box, Frame, Point, Size, crop_window
from vigorl_lib.domain.grammar import find_points
from vigorl_lib.models.tiny import RESIZE

SEEDS = st.integers(min_value=0, max_value=10**8)
SOME_SEEDS = range(0, 24)
NEAR = 60.0
"""Colours this far apart (Euclidean, 8-bit RGB) still count as the same: noise, jitter and JPEG."""


@given(SEEDS)
def test_a_scene_and_its_picture_follow_from_the_seed_alone(seed: int) -> None:
    assert synthetic.make_scene(seed) == synthetic.make_scene(seed)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others() -> None:
    def digest(seed: int) -> str:
        return hashlib.sha256(synthetic.encode(synthetic.render(synthetic.make_scene(seed)))[0]).hexdigest()

    assert digest(5) == digest(5)
    assert digest(5) != digest(7)


@given(SEEDS)
@settings(max_examples=200)
def test_tiles_lie_inside_the_picture_and_apart_from_each_other(seed: int) -> None:
    scene = synthetic.make_scene(seed)
    tiles = (scene.target, *scene.distractors)
    for tile in tiles:
        assert tile.box.frame is Frame.ORIGINAL
        assert 0 <= tile.box.x0 < tile.box.x1 <= synthetic.ORIGINAL_SIZE.width
        assert 0 <= tile.box.y0 < tile.box.y1 <= synthetic.ORIGINAL_SIZE.height
        assert tile.box.contains(Point(tile.dot_box.x0, tile.dot_box.y0, Frame.ORIGINAL))
    for index, tile in enumerate(tiles):
        assert not any(_overlap(tile.box, other.box) for other in tiles[index + 1 :])


@given(SEEDS)
def test_only_the_target_has_the_colour_that_the_question_names(seed: int) -> None:
    scene = synthetic.make_scene(seed)
    assert scene.question == f"What color is the dot on the {scene.color} tile?"
    assert scene.answer == scene.target.dot
    assert [tile.color for tile in scene.distractors] == [None, None]


def test_half_of_the_targets_are_small() -> None:
    sizes = [synthetic.make_scene(seed).size_class for seed in range(100)]
    assert sizes.count(SizeClass.SMALL) == 50


@pytest.mark.parametrize("seed", SOME_SEEDS)
def test_the_encoded_picture_shows_what_the_ground_truth_says(seed: int) -> None:
    scene = synthetic.make_scene(seed)
    data, media_type = synthetic.encode(synthetic.render(scene))
    assert media_type == "image/jpeg"
    pixels = np.asarray(PILImage.open(io.BytesIO(data)).convert("RGB"), dtype=float)
    assert pixels.shape[:2] == (synthetic.ORIGINAL_SIZE.height, synthetic.ORIGINAL_SIZE.width)
    assert _nearest_dot(pixels, scene.target) == scene.answer
    assert np.linalg.norm(_mean(pixels, _left_edge(scene.target)) - scene.target.rgb) < NEAR


@given(SEEDS)
def test_a_small_dot_covers_few_pixels_of_the_view_and_a_large_one_many(seed: int) -> None:
    scene = synthetic.make_scene(seed)
    width = scene.target.dot_box.width / synthetic.VIEW_SCALE
    assert width < 2.2 if scene.size_class is SizeClass.SMALL else width > 8


def test_the_tiny_models_view_of_a_scene_is_the_one_that_captions_imitate() -> None:
    assert RESIZE.model_size(synthetic.ORIGINAL_SIZE) == Size(synthetic.VIEW_SIDE, synthetic.VIEW_SIDE)
    for side in (synthetic.VIEW_SIDE // 2, synthetic.ZOOM_SHOWN):
        assert RESIZE.model_size(Size(side, side)) == Size(side, side)


@given(SEEDS)
@settings(max_examples=200)
def test_a_zoom_on_the_said_point_shows_the_dot(seed: int) -> None:
    target = synthetic.make_scene(seed).target
    said = synthetic.view_point(target.center)
    assert (said.x - 2) % synthetic.POINT_BIN == 0
    assert said.distance(Point(target.center.x / 4, target.center.y / 4)) <= synthetic.POINT_BIN
    center = Point(said.x * synthetic.VIEW_SCALE, said.y * synthetic.VIEW_SCALE, Frame.ORIGINAL)
    side = synthetic.ZOOM_WINDOW
    window = crop_window(center, (side, side), synthetic.ORIGINAL_SIZE, Border.SHIFT)
    assert window.contains(target.center)
    if target.box.width < 21:
        assert window.x0 <= target.box.x0
        assert target.box.x1 <= window.x1
        assert window.y0 <= target.box.y0
        assert target.box.y1 <= window.y1


@pytest.mark.parametrize("seed", range(10))
def test_a_caption_says_only_what_can_be_seen(seed: int) -> None:
    caption, scene = synthetic.make_caption(seed), synthetic.make_scene(seed)
    kind = seed % 5
    assert caption.image.size == {0: (112, 112), 1: (112, 112), 2: (56, 56), 3: (56, 56), 4: (112, 112)}[kind]
    assert (scene.answer in caption.text) == (kind == 4 or scene.size_class is SizeClass.LARGE)
    assert find_points(caption.text) == (() if kind == 4 else (synthetic.view_point(scene.target.center),))
    assert caption.image.tobytes() == synthetic.make_caption(seed).image.tobytes()


def test_a_caption_of_a_zoom_window_shows_its_dot() -> None:
    for seed in range(4, 104, 10):
        scene = synthetic.make_scene(seed)
        dot = np.array(synthetic.DOT_COLORS[scene.answer], dtype=float)
        pixels = np.asarray(synthetic.make_caption(seed).image, dtype=float)
        close = np.linalg.norm(pixels - dot, axis=-1) < NEAR
        assert close.sum() > 20, f"seed {seed}: no {scene.answer} dot in the window"


def _overlap(a: Box, b: Box) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1


def _mean(pixels: np.ndarray, box: Box) -> np.ndarray:
    mean: np.ndarray = pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)].mean((0, 1))
    return mean


def _left_edge(tile: Tile) -> Box:
    """A strip of the tile itself, left of its dot and half way down."""
    middle = tile.center
    return Box(tile.box.x0 + tile.box.width / 8, middle.y - 1, tile.dot_box.x0 - tile.box.width / 16, middle.y + 1)


def _nearest_dot(pixels: np.ndarray, tile: Tile) -> str:
    reach = tile.dot_box.width / 4
    middle = tile.center
    seen = _mean(pixels, Box(middle.x - reach, middle.y - reach, middle.x + reach, middle.y + reach))
    return min(synthetic.ANSWERS, key=lambda name: float(np.linalg.norm(seen - synthetic.DOT_COLORS[name])))
