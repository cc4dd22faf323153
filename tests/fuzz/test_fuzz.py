"""A short run of every fuzz target, the same on every machine, and inputs that once broke one."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import HealthCheck, given, seed, settings
from PIL import Image as PILImage

from tests.fuzz.__main__ import inputs
from tests.fuzz.targets import TARGETS, seeds
from vigorl_lib.domain.grammar import find_points, map_points
from vigorl_lib.errors import DataError
from vigorl_lib.models.pixels import decode
from vigorl_lib.storage.images import probe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("target", TARGETS)
def test_no_input_breaks_a_target(target: str) -> None:
    limits = settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    seed(1)(limits(given(inputs(target))(TARGETS[target])))()


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_of_a_target_is_within_it(target: str) -> None:
    for data in seeds(target):
        TARGETS[target](data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once_and_its_size_is_that_after_turning(orientation: int) -> None:
    buffer = io.BytesIO()
    PILImage.new("RGB", (9, 5)).save(buffer, "TIFF", tiffinfo={0x0112: orientation})
    upright = (5, 9) if orientation >= 5 else (9, 5)
    assert decode(buffer.getvalue()).size == upright
    promised = probe(buffer.getvalue()).size
    assert (promised.width, promised.height) == upright


def test_an_image_whose_orientation_is_told_in_two_ways_is_refused() -> None:
    pictures = []
    for orientation in (6, 1):
        buffer, exif = io.BytesIO(), PILImage.Exif()
        exif[0x0112] = orientation
        PILImage.new("RGB", (9, 5)).save(buffer, "PNG", exif=exif)
        pictures.append(buffer.getvalue())
    turned, other = pictures
    begin = other.index(b"eXIf") - 4
    chunk = other[begin : other.index(b"IDAT") - 4]
    end = turned.index(b"IEND") - 4
    with pytest.raises(DataError, match="told in two ways"):
        decode(turned[:end] + chunk + turned[end:])


@pytest.mark.parametrize("text", ["<think> (4, " + "6" * 400 + ") </think>", "<think> (0.0000001, 5) </think>"])
def test_a_number_of_any_length_survives_mapping(text: str) -> None:
    points = find_points(text)
    assert find_points(map_points(text, lambda point: point)) == points
    assert all(math.isfinite(point.x) and math.isfinite(point.y) for point in points)


def test_a_tiff_whose_second_directory_lacks_its_dimensions_is_refused_by_name() -> None:
    buffer = io.BytesIO()
    PILImage.new("1", (9, 5)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    following = first + 2 + 12 * entries
    data[following : following + 4] = len(data).to_bytes(4, "little")
    with pytest.raises(DataError, match="cannot be decoded") as caught:
        decode(bytes(data) + bytes(12))
    assert caught.value.reason == "IMAGE_UNREADABLE"
