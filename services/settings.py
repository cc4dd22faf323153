"""Settings that several services share."""

from __future__ import annotations

from pydantic import Field

from vigorl_lib.rpc.images import ImageCache
from vigorl_lib.rpc.server import ServiceSection
from vigorl_lib.storage.served_images import open_image_cache


class ImageServiceSection(ServiceSection):
    """A service that receives images."""

    root: str = ""
    """Storage root whose images may be sent by digest; empty for images sent inline only."""
    image_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Encoded images kept in memory."""
    object_prefixes: tuple[str, ...] = ()
    """URIs below which images may be named as objects, such as s3://bucket/images."""

    def open_images(self) -> ImageCache:
        return open_image_cache(self.root, cache_bytes=self.image_cache_bytes, object_prefixes=self.object_prefixes)
