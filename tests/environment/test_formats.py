"""Which encoded images an episode opens on, and how the others are refused: by name, before they are decoded."""

from __future__ import annotations

import asyncio
import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image as PILImage

from tests.environment.support import RESIZE, ZOOM, pixels, zoom
from tests.pictures import encoded as plain_file
from tests.pictures import huge_png, png_of
from vigorl_lib.domain.geometry import Point, ResizeRule, Size
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.environment.base import Episode
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import DataError
from vigorl_lib.models.pixels import decode
from vigorl_lib.storage.images import probe

RED, GREEN = (200, 30, 40), (20, 160, 90)
WIDTH, HEIGHT = 120, 80


def halves(mode: str = "RGB") -> PILImage.Image:
    """Red on the left, green on the right."""
    picture = PILImage.new("RGB", (WIDTH, HEIGHT), RED)
    picture.paste(GREEN, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return picture.convert(mode)


def saved(picture: PILImage.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind: str, **options: object) -> bytes:
    return saved(PILImage.effect_noise((64, 64), 90).convert("RGB"), kind, **options)


def moving(kind: str) -> bytes:
    return saved(halves(), kind, save_all=True, append_images=[PILImage.new("RGB", (WIDTH, HEIGHT), "blue")])


def sixteen_bits(channels: int) -> bytes:
    """A PNG of 16 bits a channel."""
    if channels == 1:
        return saved(PILImage.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)), "PNG")
    row = b"\x00" + struct.pack(">3H", *(257 * channel for channel in RED)) * WIDTH
    return png_of(WIDTH, HEIGHT, 16, zlib.compress(row * HEIGHT))


def sideways(kind: str, orientation: int) -> bytes:
    """A file that shows `halves` once it is turned as its orientation says."""
    undo = {
        3: PILImage.Transpose.ROTATE_180,
        6: PILImage.Transpose.ROTATE_90,
        8: PILImage.Transpose.ROTATE_270,
        2: PILImage.Transpose.FLIP_LEFT_RIGHT,
        5: PILImage.Transpose.TRANSPOSE,
    }[orientation]
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return saved(halves().transpose(undo), kind, exif=exif, quality=100)


async def opened(environment: ZoomEnvironment, data: bytes) -> tuple[Image, Episode]:
    image = probe(data)
    return image, await environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE)


USABLE = {
    "jpeg": saved(halves(), "JPEG", quality=100),
    "png": saved(halves(), "PNG"),
    "webp": saved(halves(), "WEBP", lossless=True),
    "still gif": saved(halves(), "GIF"),
    "progressive jpeg": saved(halves(), "JPEG", quality=100, progressive=True),
    "cmyk": saved(halves("CMYK"), "JPEG", quality=100),
    "palette": saved(halves("P"), "PNG"),
    "opaque rgba": saved(halves("RGBA"), "PNG"),
    "lying on its side": sideways("JPEG", 6),
    "turned the other way": sideways("PNG", 8),
    "upside down": sideways("WEBP", 3),
    "mirrored": sideways("JPEG", 2),
    "transposed": sideways("PNG", 5),
}


@pytest.mark.parametrize("name", USABLE)
async def test_a_crop_shows_the_colors_of_any_usable_file_where_they_are(
    environment: ZoomEnvironment, name: str
) -> None:
    image, episode = await opened(environment, USABLE[name])
    assert image.size == Size(WIDTH, HEIGHT), "as it is seen, after its orientation"
    for x, color in ((0.25, RED), (0.75, GREEN)):
        point = Point(x * episode.model_size.width, 0.5 * episode.model_size.height)
        _, shown = await environment.crop(image, point, config=ZOOM, resize=RESIZE)
        middle = pixels(shown)[shown.size.height // 2, shown.size.width // 2]
        assert middle == pytest.approx(color, abs=26), name


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
async def test_shades_of_grey_are_shown_as_such(environment: ZoomEnvironment, mode: str) -> None:
    image, _ = await opened(environment, saved(PILImage.new("L", (60, 60), 255).convert(mode), "PNG"))
    _, shown = await environment.crop(image, Point(20, 20), config=ZOOM, resize=RESIZE)
    assert pixels(shown).min() > 250


async def test_sixteen_bits_of_color_are_shown_with_eight(environment: ZoomEnvironment) -> None:
    image, _ = await opened(environment, sixteen_bits(3))
    _, shown = await environment.crop(image, Point(20, 20), config=ZOOM, resize=RESIZE)
    assert pixels(shown)[50, 50] == pytest.approx(RED, abs=5)


async def test_a_single_pixel_can_be_seen_and_zoomed(environment: ZoomEnvironment) -> None:
    image, episode = await opened(environment, plain_file(1, 1, color=250))
    assert episode.model_size == Size(28, 28)
    outcome = await environment.step(episode.state, zoom(14, 14), image)
    assert outcome.crop_image is not None
    assert pixels(outcome.crop_image)[50, 50] == pytest.approx((250, 0, 0), abs=5)


REFUSED = {
    "moving gif": (moving("GIF"), "IMAGE_ANIMATED"),
    "moving webp": (moving("WEBP"), "IMAGE_ANIMATED"),
    "moving png": (moving("PNG"), "IMAGE_ANIMATED"),
    "pages of a tiff": (moving("TIFF"), "IMAGE_ANIMATED"),
    "sixteen bits of grey": (sixteen_bits(1), "IMAGE_MODE"),
    "cut jpeg": (noise("JPEG", quality=90)[:-900], "IMAGE_UNREADABLE"),
    "cut png": (noise("PNG")[:-900], "IMAGE_UNREADABLE"),
    "cut webp": (noise("WEBP", lossless=True)[:-900], "IMAGE_UNREADABLE"),
    "a line of pixels": (plain_file(40_000, 1), "IMAGE_ASPECT_RATIO"),
    "a column of pixels": (plain_file(1, 40_000), "IMAGE_ASPECT_RATIO"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_shown_is_refused_by_name_when_the_episode_opens(
    environment: ZoomEnvironment, name: str
) -> None:
    data, reason = REFUSED[name]
    with pytest.raises(DataError) as caught:
        await opened(environment, data)
    assert caught.value.reason == reason
    assert "expected" in caught.value.message or "must not" in caught.value.message


def without_pixels(data: bytes) -> bytes:
    """The same PNG with rubbish for pixels: whoever decodes it fails with IMAGE_UNREADABLE."""
    at = data.index(b"IDAT") + 4
    return data[:at] + bytes(len(data) - at - 12) + data[-12:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (without_pixels(plain_file(40_000, 1)), "IMAGE_ASPECT_RATIO"),
        (without_pixels(sixteen_bits(1)), "IMAGE_MODE"),
        (without_pixels(moving("PNG")), "IMAGE_ANIMATED"),
        (huge_png(200_000, 200_000), "IMAGE_TOO_LARGE"),
        (huge_png(10_001, 10_000), "IMAGE_TOO_LARGE"),
    ],
    ids=["a line", "sixteen bits", "an animation", "a bomb", "a little too large"],
)
async def test_what_a_header_tells_is_refused_before_a_pixel_is_decoded(
    environment: ZoomEnvironment, data: bytes, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        await opened(environment, data)
    assert caught.value.reason == reason


async def test_a_record_that_tells_another_size_is_refused(environment: ZoomEnvironment) -> None:
    data = plain_file(120, 80)
    with pytest.raises(DataError, match="expected 80x120 pixels, as its record says, found 120x80") as caught:
        await environment.start(
            Image(digest(data), "image/png", Size(80, 120), data), mode="multi_turn", config=ZOOM, resize=RESIZE
        )
    assert caught.value.reason == "IMAGE_SIZE"


@pytest.mark.parametrize("resize", [ResizeRule(28, 2**31, 2**32 - 1), ResizeRule(60_000, 1, 2**32 - 1)])
async def test_a_rule_that_would_fill_the_memory_is_refused(environment: ZoomEnvironment, resize: ResizeRule) -> None:
    image = probe(plain_file(100, 100))
    with pytest.raises(DataError, match="views of at most") as caught:
        await environment.crop(image, Point(5, 5), config=ZOOM, resize=resize)
    assert caught.value.metadata["field"] == "resize"


async def test_others_are_served_while_a_large_picture_is_decoded() -> None:
    data = saved(PILImage.new("RGB", (4000, 4000)), "PNG", compress_level=1)
    image = probe(data)

    def seconds(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    assert seconds(lambda: decode(data)) > 0.02, "too fast to tell"
    environment = ZoomEnvironment(threads=1)
    opening = asyncio.create_task(environment.start(image, mode="multi_turn", config=ZOOM, resize=RESIZE))
    turns = 0
    while not opening.done():
        await asyncio.sleep(0.001)
        turns += 1
    await opening
    await environment.close()
    assert turns > 2, "the event loop stood still"
