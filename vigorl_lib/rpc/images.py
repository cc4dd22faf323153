"""Images on the wire: the bytes once per server, the digest afterwards.

`ImageCache` is the server's side: it turns what a request says into an image with its bytes, from the
request itself, from memory, or from storage, and refuses otherwise (IMAGE_NOT_CACHED). `SentImages`
is a client's memory of what a server has been given. Nothing is decoded here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.errors import DataError, EpisodeError, ObjectNotFound, VigorlError
from vigorl_lib.rpc.convert import image_by_digest, image_inline, invalid, size_from_proto
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2

MAX_INLINE_BYTES = 16 << 20
MAX_BYTES_ON_LOOP = 64 << 10
"""Hashing this much takes less than handing it to a thread."""

T = TypeVar("T")


@dataclass
class ImageCache:
    """A server's images by digest, those used last up to `max_bytes` of encoded bytes. Safe among threads.

    `probe` reads type and size from the header and raises DataError for what is no image. `lookup`
    gets an image from storage by digest (ObjectNotFound where it has none), `load_object` one by URI.
    """

    probe: Callable[[bytes], Image]
    max_bytes: int
    lookup: Callable[[str], Image] | None = None
    load_object: Callable[[str], bytes] | None = None
    _images: ByteCache[Image] = field(init=False)

    def __post_init__(self) -> None:
        self._images = ByteCache(self.max_bytes, lambda image: len(image.data or b""))

    def resolve(self, proto: image_pb2.Image) -> Image:
        """The image with its bytes. Raises DataError, EpisodeError (IMAGE_NOT_CACHED)."""
        match proto.WhichOneof("source"):
            case "inline":
                return self._inline(proto.inline.data)
            case "digest":
                return self._by_digest(proto.digest.sha256)
            case "object":
                return self._object(proto.object.uri)
        raise invalid("image.source", "inline bytes, a digest or an object", "nothing")

    async def resolve_all(self, protos: Sequence[image_pb2.Image]) -> list[Image]:
        """`resolve` of each, in order; whatever reads storage or hashes much runs off the event loop."""
        if any(self._is_slow(proto) for proto in protos):
            return await asyncio.to_thread(self._resolve_together, protos)
        return self._resolve_together(protos)

    def _resolve_together(self, protos: Sequence[image_pb2.Image]) -> list[Image]:
        """What a request has said once holds to its end, even where the cache is too small for all of it."""
        images: list[Image] = []
        said: dict[str, Image] = {}
        for proto in protos:
            sha256 = proto.digest.sha256 if proto.WhichOneof("source") == "digest" else ""
            image = said[sha256] if sha256 in said else self.resolve(proto)
            said[image.sha256] = image
            images.append(image)
        return images

    def _is_slow(self, proto: image_pb2.Image) -> bool:
        match proto.WhichOneof("source"):
            case "inline":
                return len(proto.inline.data) > MAX_BYTES_ON_LOOP
            case "digest":
                return self.lookup is not None and proto.digest.sha256 not in self._images
        return True

    @property
    def used_bytes(self) -> int:
        return self._images.used_bytes

    def _inline(self, data: bytes) -> Image:
        if len(data) > MAX_INLINE_BYTES:
            raise DataError(
                f"an inline image may have {MAX_INLINE_BYTES} bytes, found {len(data)}; put it into storage",
                reason="IMAGE_TOO_LARGE",
                size_bytes=len(data),
            )
        known = self._images.get(digest(data))
        return known if known is not None else self._keep(self.probe(data))

    def _by_digest(self, sha256: str) -> Image:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise invalid("image.digest.sha256", "64 lower-case hexadecimal digits", repr(sha256[:80]))
        known = self._images.get(sha256)
        if known is not None:
            return known
        if self.lookup is not None:
            try:
                return self._keep(self.lookup(sha256))
            except ObjectNotFound:
                pass  # Neither in memory nor in storage: the refusal below is the answer.
        raise EpisodeError(f"no image {sha256} here; send it inline once", reason="IMAGE_NOT_CACHED", sha256=sha256)

    def _object(self, uri: str) -> Image:
        if self.load_object is None:
            raise DataError(
                f"this server reads no object URIs, found {uri!r}; send the image inline",
                reason="IMAGE_URI_FORBIDDEN",
                uri=uri,
            )
        return self._inline(self.load_object(uri))

    def _keep(self, image: Image) -> Image:
        return self._images.put(image.sha256, image)


class SentImages:
    """What one server has been given, as far as one client knows; the oldest are forgotten first."""

    def __init__(self, max_digests: int = 100_000) -> None:
        self._max_digests = max_digests
        self._digests: OrderedDict[str, None] = OrderedDict()

    async def call(self, send: Callable[[Callable[[Image], image_pb2.Image]], Awaitable[T]]) -> T:
        """Run `send`, which encodes its request with the function it gets; once more, inline, if the server asks.

        A server that has no such image refuses before it does any work, so the second try repeats nothing.
        """
        request = _Request(self._digests)
        try:
            answer = await send(request.encode)
        except VigorlError as error:
            if error.reason != "IMAGE_NOT_CACHED":
                raise
            request = _Request(None)
            answer = await send(request.encode)
        for sha256 in request.inline:
            self._digests[sha256] = None
        while len(self._digests) > self._max_digests:
            self._digests.popitem(last=False)
        return answer


class _Request:
    """Encodes the images of one request: inline at first sight, by digest from then on.

    An image without bytes goes by digest too: the server may have it in storage. Where `known` is None the
    server has just said that it has not, and everything goes inline.
    """

    def __init__(self, known: OrderedDict[str, None] | None) -> None:
        self._known = known
        self.inline: set[str] = set()

    def encode(self, image: Image) -> image_pb2.Image:
        known = self._known is not None and (image.sha256 in self._known or image.data is None)
        if known or image.sha256 in self.inline:
            return image_by_digest(image)
        self.inline.add(image.sha256)
        return image_inline(image)


def received_image(proto: image_pb2.Image) -> Image:
    """An image that a server made and sent inline; a client believes the server's type and size."""
    if proto.WhichOneof("source") != "inline":
        raise invalid("image.source", "inline bytes", proto.WhichOneof("source") or "nothing")
    data = proto.inline.data
    return Image(digest(data), proto.media_type, size_from_proto(proto.size), data)
