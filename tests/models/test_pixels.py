"""Decoding, the model's view and patches."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from transformers import Qwen2VLImageProcessorPil

from tests.models.support import flat_image, scene_image
from vigorl_lib.errors import DataError, PolicyError
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.pixels import ViewCache, decode, model_view, to_patches
from vigorl_lib.models.tiny import RESIZE


def encoded(picture: PILImage.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_name, **options)
    return buffer.getvalue()


def test_exif_orientation_is_applied_once() -> None:
    picture = PILImage.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 20, 20))
    exif = PILImage.Exif()
    exif[0x0112] = 6
    upright = decode(encoded(picture, "PNG", exif=exif))
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5)) == (255, 255, 255)
    assert upright.getexif().get(0x0112, 1) == 1


def test_transparent_parts_become_white() -> None:
    assert decode(encoded(PILImage.new("RGBA", (8, 8), (10, 20, 30, 0)), "PNG")).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not an image", "IMAGE_UNREADABLE"),
        (encoded(PILImage.effect_noise((64, 64), 90).convert("RGB"), "JPEG")[:900], "IMAGE_UNREADABLE"),
        (encoded(PILImage.effect_noise((64, 64), 90), "PNG")[:600], "IMAGE_UNREADABLE"),
        (encoded(PILImage.new("I;16", (8, 8)), "PNG"), "IMAGE_MODE"),
        (
            encoded(
                PILImage.new("RGB", (8, 8), "red"),
                "GIF",
                save_all=True,
                append_images=[PILImage.new("RGB", (8, 8), "blue")],
            ),
            "IMAGE_ANIMATED",
        ),
        (encoded(PILImage.new("1", (11_000, 10_000)), "PNG"), "IMAGE_TOO_LARGE"),
    ],
    ids=["garbage", "cut jpeg", "cut png", "16 bits", "animation", "bomb"],
)
def test_what_cannot_be_used_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        decode(data)
    assert caught.value.reason == reason
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("size", [(448, 448), (84, 84), (640, 427), (30, 200)])
def test_the_processors_own_resize_of_our_view_is_the_identity(size: tuple[int, int], tiny: LoadedModel) -> None:
    picture = PILImage.effect_noise(size, 90).convert("RGB")
    view = model_view(picture, RESIZE)
    patches, grid = to_patches([np.asarray(view)], tiny.image_processor)
    theirs = tiny.image_processor(images=[view], return_tensors="pt")
    assert grid.tolist() == theirs["image_grid_thw"].tolist()
    assert bool((patches == theirs["pixel_values"]).all())


@pytest.mark.parametrize(("side", "mean"), [(14, (0.48, 0.46, 0.41)), (16, (0.5, 0.5, 0.5))])
def test_patches_are_the_processors_own(side: int, mean: tuple[float, float, float]) -> None:
    processor = Qwen2VLImageProcessorPil(patch_size=side, image_mean=mean, image_std=(0.27, 0.26, 0.28))
    sizes = [(2 * side, 6 * side), (8 * side, 4 * side), (2 * side, 6 * side)]
    rng = np.random.default_rng(0)
    views = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    patches, grid = to_patches(views, processor)
    theirs = processor(images=views, do_resize=False, return_tensors="pt")
    assert torch.equal(patches, theirs["pixel_values"])
    assert torch.equal(grid, theirs["image_grid_thw"])


def test_the_view_of_an_original_is_what_the_processor_would_have_made(tiny: LoadedModel) -> None:
    image = scene_image(3)
    assert image.data is not None
    ours, _ = to_patches([ViewCache(RESIZE).get(image)], tiny.image_processor)
    theirs = tiny.image_processor(images=[PILImage.open(io.BytesIO(image.data))], return_tensors="pt")["pixel_values"]
    assert (ours - theirs).abs().max() < 0.02


def test_a_view_is_decoded_once_and_then_needs_no_bytes() -> None:
    cache, image = ViewCache(RESIZE), scene_image(4)
    view = cache.get(image)
    assert view.shape == (112, 112, 3)
    assert cache.get(image.without_data()) is view


def test_an_unknown_image_without_bytes_is_asked_for() -> None:
    with pytest.raises(PolicyError) as caught:
        ViewCache(RESIZE).get(flat_image(28, 28).without_data())
    assert caught.value.reason == "IMAGE_NOT_CACHED"


def test_the_cache_keeps_to_its_bytes_and_drops_what_was_used_least_recently() -> None:
    one_view = 112 * 112 * 3
    cache = ViewCache(RESIZE, max_bytes=2 * one_view)
    first, second, third = (flat_image(448, 448, color) for color in ("red", "green", "blue"))
    for image in (first, second, first, third):
        cache.get(image)
    assert cache.size_bytes <= 2 * one_view
    assert cache.get(replace(first, data=None)).shape == (112, 112, 3)
    with pytest.raises(PolicyError):
        cache.get(replace(second, data=None))
