"""What happens to a benchmark's images before anybody sees them: joined side by side, or shrunk with their boxes.

An image that needs neither keeps its bytes. Points and boxes of an example refer to its first image.
"""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image as PILImage

from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Box, Point, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError
from vigorl_lib.storage.images import probe

JPEG_QUALITY = 95


def joined(example: Example) -> Example:
    """The example about one image that shows all of its images from left to right, scaled to the tallest one's height.

    Raises DataError (RECORD_INVALID) where regions are known, which could be in any of the images.
    """
    if len(example.images) == 1:
        return example
    truth = example.truth
    if truth.box or truth.evidence or truth.distractors:
        raise DataError(
            f"{example.example_id}: expected no regions in a question whose images are joined", reason="RECORD_INVALID"
        )
    pictures = [_decoded(image) for image in example.images]
    height = max(picture.height for picture in pictures)
    scaled = [
        picture
        if picture.height == height
        else picture.resize(
            (max(1, round(picture.width * height / picture.height)), height), PILImage.Resampling.BICUBIC
        )
        for picture in pictures
    ]
    canvas = PILImage.new("RGB", (sum(picture.width for picture in scaled), height))
    left = 0
    for picture in scaled:
        canvas.paste(picture, (left, 0))
        left += picture.width
    return replace(example, images=(_encoded(canvas, example.images[0].media_type),))


def within_side(example: Example, max_side: int) -> Example:
    """The example with no image side above `max_side` pixels, and its regions where they then are."""
    if all(max(image.size.width, image.size.height) <= max_side for image in example.images):
        return example
    images = tuple(_shrunk(image, max_side) for image in example.images)
    before, after = example.images[0].size, images[0].size
    sx, sy = after.width / before.width, after.height / before.height
    return replace(example, images=images, truth=_scaled(example.truth, sx, sy))


def _shrunk(image: Image, max_side: int) -> Image:
    size = image.size
    longest = max(size.width, size.height)
    if longest <= max_side:
        return image
    # Sides are cut to whole pixels as the reference's evaluation does (reference: --max_image_side).
    target = Size(max(1, size.width * max_side // longest), max(1, size.height * max_side // longest))
    picture = _decoded(image).resize((target.width, target.height), PILImage.Resampling.BICUBIC)
    return _encoded(picture, image.media_type)


def _scaled(truth: GroundTruth, sx: float, sy: float) -> GroundTruth:
    def box(one: Box) -> Box:
        return Box(one.x0 * sx, one.y0 * sy, one.x1 * sx, one.y1 * sy, one.frame)

    return replace(
        truth,
        box=None if truth.box is None else box(truth.box),
        evidence=tuple(map(box, truth.evidence)),
        distractors=tuple(map(box, truth.distractors)),
        region=tuple(Point(corner.x * sx, corner.y * sy, corner.frame) for corner in truth.region),
    )


def _decoded(image: Image) -> PILImage.Image:
    from vigorl_lib.models.pixels import decode

    assert image.data is not None
    return decode(image.data)


def _encoded(picture: PILImage.Image, media_type: str) -> Image:
    """JPEG for what came as JPEG, else PNG, which loses nothing."""
    buffer = io.BytesIO()
    if media_type == "image/jpeg":
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    return probe(buffer.getvalue())
