"""A conversation as chat messages, for engines that render it themselves and answer in text.

Assistant text of any origin is one message until somebody else speaks, so a policy's turn and a forced prefix before
it read as the one turn that they are. Exact tokens are `vigorl_lib.models.chat`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.errors import PolicyError

_ASSISTANT = (Origin.POLICY, Origin.DEMONSTRATION, Origin.FORCED)


def chat_messages(prompt: Sequence[Segment], image_part: Callable[[Image], dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages with role and content; `image_part` gives an image's part. Raises PolicyError (PROMPT_INVALID)."""
    chat: list[dict[str, Any]] = []
    for spoken, segments in itertools.groupby(prompt, lambda segment: segment.origin in _ASSISTANT):
        if not spoken:
            chat.extend(_message(message, image_part) for segment in segments for message in segment.messages)
        elif text := "".join(segment.text for segment in segments):
            chat.append({"role": Role.ASSISTANT.value, "content": text})
    if not chat:
        raise PolicyError("expected a conversation with at least one message, found none", reason="PROMPT_INVALID")
    return chat


def open_text(prompt: Sequence[Segment]) -> str:
    """The assistant text that a conversation ends with and that its next completion continues; often empty."""
    spoken = itertools.takewhile(lambda segment: segment.origin in _ASSISTANT, reversed(prompt))
    return "".join(reversed([segment.text for segment in spoken]))


def check_images(prompt: Sequence[Segment], policy: str, most: int) -> None:
    """Raises PolicyError (TOO_MANY_IMAGES)."""
    images = sum(len(segment.images) for segment in prompt)
    if images > most:
        raise PolicyError(
            f"expected at most {most} images in one conversation with policy {policy}, found {images}",
            reason="TOO_MANY_IMAGES",
            max_images=most,
        )


def _message(message: Message, image_part: Callable[[Image], dict[str, Any]]) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role.value, "content": message.text}
    parts = [{"type": "text", "text": part} if isinstance(part, str) else image_part(part) for part in message.parts]
    return {"role": message.role.value, "content": parts}
