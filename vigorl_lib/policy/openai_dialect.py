"""What an image and an answer look like to an OpenAI-compatible endpoint.

Images become parts of chat messages with data URLs of their model view; the end of an answer becomes text again.
Messages are `vigorl_lib.policy.chat_messages`; nothing is sent from here, that is `vigorl_lib.policy.openai`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image as PILImage

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.pixels import decode, model_view

_SENT_AS_THEY_ARE = ("image/jpeg", "image/png", "image/webp")
_ORIENTATION = 0x0112


class ImageParts:
    """Images as parts of messages, their data URLs cached by digest. Safe to use from several threads."""

    def __init__(self, resize: ResizeRule, max_bytes: int) -> None:
        self._resize = resize
        self._urls: ByteCache[str] = ByteCache(max_bytes, len)

    def part(self, image: Image) -> dict[str, Any]:
        """The model view of an image. Raises DataError, and PolicyError (IMAGE_NOT_CACHED) if it came without bytes."""
        return {"type": "image_url", "image_url": {"url": self._url(image)}}

    def _url(self, image: Image) -> str:
        if (url := self._urls.get(image.sha256)) is not None:
            return url
        if image.data is None:
            raise PolicyError(
                f"image {image.sha256[:12]} is not cached here; send its bytes",
                reason="IMAGE_NOT_CACHED",
                sha256=image.sha256,
            )
        media_type, data = self._encoded(image, image.data)
        return self._urls.put(image.sha256, f"data:{media_type};base64,{base64.b64encode(data).decode()}")

    def _encoded(self, image: Image, data: bytes) -> tuple[str, bytes]:
        """Media type and bytes: the original where any reader sees in it the very pixels of its view, else a PNG."""
        picture = decode(data)
        view = model_view(picture, self._resize)
        if view is picture and image.media_type in _SENT_AS_THEY_ARE:
            plain = PILImage.open(io.BytesIO(data))
            upright = plain.getexif().get(_ORIENTATION, 1) == 1
            if plain.mode in ("RGB", "L") and upright and not plain.has_transparency_data:
                return image.media_type, data
        buffer = io.BytesIO()
        view.save(buffer, "PNG", compress_level=1)
        return "image/png", buffer.getvalue()


def content(message: Any) -> str:
    """Text of an answer or of a piece of one; the API gives null for none."""
    text = getattr(message, "content", None)
    return text if isinstance(text, str) else ""


def check_refusal(choice: Any, message: Any) -> None:
    """Raises PolicyError (GENERATION_REFUSED)."""
    if choice.finish_reason == "content_filter" or getattr(message, "refusal", None):
        raise PolicyError(
            "the endpoint's content filter refuses to answer this conversation; change the prompt or leave it out",
            reason="GENERATION_REFUSED",
        )


def stop_string(text: str, choice: Any, stops: Sequence[str]) -> str:
    """The stop string that ended an assistant's `text`, empty if its turn ended by itself.

    vLLM says which one it was. Elsewhere it is told by the tag that is still open: an answer that ends its turn
    inside such a tag cannot be told from one that was stopped.
    """
    told = choice.model_extra or {}
    if "stop_reason" in told:
        return told["stop_reason"] if told["stop_reason"] in stops else ""
    opened = {
        stop: text.rfind(f"<{stop[2:]}")
        for stop in stops
        if stop.startswith("</") and text.rfind(f"<{stop[2:]}") > text.rfind(stop)
    }
    return max(opened, key=lambda stop: opened[stop], default="")
