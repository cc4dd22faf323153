"""An encoded image that is known by its content.

Equality and hashing use the SHA-256 of the encoded bytes alone, so an image with its bytes and a
mere reference to it are the same image. This module neither decodes nor stores: decoding is
`vigorl_lib.models.pixels`, storing is `vigorl_lib.storage.images`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from vigorl_lib.domain.geometry import Size


@dataclass(frozen=True, slots=True)
class Image:
    """Encoded image: digest (lower-case hex), media type, size in pixels after EXIF orientation, bytes if at hand."""

    sha256: str
    media_type: str = field(compare=False)
    size: Size = field(compare=False)
    data: bytes | None = field(default=None, compare=False, repr=False)

    def without_data(self) -> Image:
        return Image(self.sha256, self.media_type, self.size)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
