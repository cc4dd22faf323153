"""A server's image cache in front of storage: what a service needs to take images by digest or by URI.

Only wiring: the cache itself is `vigorl_lib.rpc.images`, the store `vigorl_lib.storage.images`.
"""

from __future__ import annotations

from vigorl_lib.errors import EpisodeError
from vigorl_lib.rpc.images import ImageCache
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore, probe


def open_image_cache(root: str, *, cache_bytes: int, object_prefixes: tuple[str, ...] = ()) -> ImageCache:
    """Images from requests and, with a storage `root`, from storage. Object URIs are read below the prefixes only."""

    def load_object(uri: str) -> bytes:
        folder, _, name = uri.rpartition("/")
        if not any(uri.startswith(f"{prefix.rstrip('/')}/") for prefix in object_prefixes) or ".." in uri:
            raise EpisodeError(
                f"objects are read below {', '.join(object_prefixes)}, found {uri!r}",
                reason="IMAGE_URI_FORBIDDEN",
                uri=uri,
            )
        return open_storage(folder).read(name)

    return ImageCache(
        probe=probe,
        max_bytes=cache_bytes,
        lookup=ImageStore(open_storage(root), cache_bytes=0).get if root else None,
        load_object=load_object if object_prefixes else None,
    )
