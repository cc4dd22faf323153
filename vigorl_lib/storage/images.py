"""Encoded images under the SHA-256 of their bytes, each with a sidecar of what its header says.

Nothing is decoded here: type, size and EXIF orientation come from the header, so that an image too large
to decode is refused before it costs memory. Pixels are `vigorl_lib.models.pixels`.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from dataclasses import replace

from PIL import Image as PILImage

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.storage.base import Storage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are read."""

DEFAULT_MAX_PIXELS = 100_000_000

UNREADABLE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError),
    *(ArithmeticError, RuntimeError, struct.error, zlib.error),
)
"""What Pillow raises about bytes that are no whole image: each of these was met, or is raised by one of its readers."""

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)


def probe(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image:
    """The image that these bytes are, by their header alone; its size is after EXIF orientation.

    Raises DataError (IMAGE_UNREADABLE, IMAGE_TOO_LARGE).
    """
    try:
        picture = open_picture(data)
        width, height = picture.size
        if width * height > max_pixels:
            raise _too_large(max_pixels, f"{width}x{height}")
        sideways = _may_be_turned(picture, data) and picture.getexif().get(_ORIENTATION) in _SIDEWAYS
        # Of a TIFF, Pillow says the size as its own tag turns it.
        sideways = sideways and getattr(picture, "tag_v2", {}).get(_ORIENTATION) not in _SIDEWAYS
    except PILImage.DecompressionBombError:
        raise _too_large(max_pixels, "far more") from None
    except UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"expected an image file ({', '.join(FORMATS)}), found {len(data)} bytes that are none",
            reason="IMAGE_UNREADABLE",
        ) from error
    media_type = PILImage.MIME[str(picture.format)]
    return Image(digest(data), media_type, Size(height, width) if sideways else Size(width, height), data)


def open_picture(data: bytes) -> PILImage.Image:
    """The picture as Pillow opens it, by its header. Raises one of UNREADABLE, or Pillow's DecompressionBombError."""
    with warnings.catch_warnings():
        # Pillow only warns of a large picture; the limit is ours.
        warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)
        return PILImage.open(io.BytesIO(data), formats=FORMATS)


def _may_be_turned(picture: PILImage.Image, data: bytes) -> bool:
    # Looking for the EXIF of a PNG makes Pillow decode the whole picture, because it may stand behind the pixels.
    return picture.format != "PNG" or b"eXIf" in data or b"Raw profile type exif" in data


def _too_large(max_pixels: int, found: str) -> DataError:
    return DataError(
        f"expected an image of at most {max_pixels} pixels, found {found}; resize it", reason="IMAGE_TOO_LARGE"
    )


class ImageStore:
    """Images in a storage, with those used last kept in memory up to `cache_bytes`. Safe to share among threads."""

    def __init__(self, storage: Storage, cache_bytes: int = 256 << 20, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> None:
        self.storage = storage
        self._max_pixels = max_pixels
        self._cache: ByteCache[Image] = ByteCache(cache_bytes, lambda image: len(image.data or b""))

    def put(self, data: bytes, media_type: str | None = None) -> Image:
        """Store encoded bytes once. Raises DataError for no image, one too large, or one of another type."""
        image = probe(data, max_pixels=self._max_pixels)
        if media_type not in (None, image.media_type):
            raise DataError(
                f"expected an image of type {media_type}, found {image.media_type}", reason="IMAGE_MEDIA_TYPE"
            )
        if self._cache.get(image.sha256) is None:
            self._store(image)
            self._cache.put(image.sha256, image)
        return image

    def get(self, sha256: str) -> Image:
        """The image with its bytes. Raises ObjectNotFound, CorruptObject."""
        cached = self._cache.get(sha256)
        if cached is not None:
            return cached
        sidecar = json.loads(self.storage.read(f"{image_key(sha256)}.json"))
        size = Size(int(sidecar["width"]), int(sidecar["height"]))
        return self.load(Image(sha256, str(sidecar["media_type"]), size))

    def load(self, image: Image) -> Image:
        """The same image with its bytes, its type and size as given. Raises ObjectNotFound, CorruptObject."""
        if image.data is not None:
            return image
        cached = self._cache.get(image.sha256)
        if cached is not None:
            return cached
        data = self.storage.read(image_key(image.sha256))
        if digest(data) != image.sha256:
            raise CorruptObject(
                f"{self.storage.uri}: the image {image.sha256} is not what its name says; delete and import it again",
                reason="IMAGE_CORRUPT",
                sha256=image.sha256,
            )
        loaded = replace(image, data=data)
        return self._cache.put(image.sha256, loaded)

    def __contains__(self, sha256: str) -> bool:
        return self._cache.get(sha256) is not None or self.storage.exists(image_key(sha256))

    def _store(self, image: Image) -> None:
        assert image.data is not None
        key = image_key(image.sha256)
        if self.storage.exists(key):
            return
        sidecar = {
            "media_type": image.media_type,
            "width": image.size.width,
            "height": image.size.height,
            "bytes": len(image.data),
        }
        # The bytes come last: an image that is there has its sidecar.
        self.storage.write(f"{key}.json", json.dumps(sidecar).encode())
        self.storage.write(key, image.data)


def image_key(sha256: str) -> str:
    return f"images/sha256/{sha256[:2]}/{sha256[2:]}"
