"""Chains from conversations as other tools write them: sharegpt, and messages with roles.

One conversation is an object with `messages` (`role`, `content`) or `conversations` (`from`, `value`), and `images`:
paths, relative to the file, of what `<image>` in the texts stands for, in their order. Every assistant turn is a
demonstration to be learnt; what comes between two of them is an observation. `system`, `id` and `metadata` (`mode`,
`policy`, `example_id`) are optional. Other media, tools and preference pairs are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from vigorl_lib.data.fields import Fields
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory
from vigorl_lib.domain.wire import IMAGE_PLACEHOLDER

DEFAULT_MODE = "conversation"
"""Mode of a conversation that names none."""

_ROLES = {
    **{role.value: role for role in Role},
    "human": Role.USER,
    "observation": Role.USER,
    "gpt": Role.ASSISTANT,
}


def is_conversation(fields: Fields) -> bool:
    """Whether an object is a conversation, rather than the record of a trajectory."""
    return "messages" in fields or "conversations" in fields


def read_conversation(fields: Fields, image: Callable[[str], Image]) -> Trajectory:
    """The chain of one conversation; `image` gives the image of a path. Raises DataError (RECORD_INVALID)."""
    images = iter([image(path) for path in _paths(fields)])
    segments = tuple(_segments(fields, images))
    if (left := len(list(images))) > 0:
        raise fields.error(f"images: expected one for each {IMAGE_PLACEHOLDER} in the texts, found {left} more")
    name = fields.text("id", fields.where)
    about = fields.nested("metadata") if "metadata" in fields else Fields({}, fields.where)
    return Trajectory(
        trajectory_id=name,
        example_id=about.text("example_id", name),
        mode=about.text("mode", DEFAULT_MODE),
        policy=about.text("policy", ""),
        segments=segments,
        turns=(),
        stop=StopReason.ANSWERED,
    )


def _segments(fields: Fields, images: Iterator[Image]) -> Iterator[Segment]:
    """Demonstrations, and before each all that was said since the last one."""
    said: list[Message] = [Message(Role.SYSTEM, (fields.text("system"),))] if "system" in fields else []
    origin = Origin.PROMPT
    for message in _messages(fields, images):
        if message.role is not Role.ASSISTANT:
            said.append(message)
            continue
        if not any(other.role is Role.USER for other in said):
            raise fields.error("expected a turn of the user before each of the assistant, found none")
        yield Segment(origin, tuple(said))
        yield Segment(Origin.DEMONSTRATION, (message,), trained=True)
        said, origin = [], Origin.OBSERVATION
    if said or origin is Origin.PROMPT:
        raise fields.error("expected a conversation that ends with the assistant")


def _messages(fields: Fields, images: Iterator[Image]) -> Iterator[Message]:
    if "messages" in fields:
        name, role_name, text_name = "messages", "role", "content"
    else:
        name, role_name, text_name = "conversations", "from", "value"
    for part in fields.objects(name):
        role = _ROLES.get(part.text(role_name))
        if role is None:
            raise part.error(f"{role_name}: expected one of {', '.join(_ROLES)}, found {part.text(role_name)!r}")
        text = part.text(text_name)
        if role is Role.ASSISTANT and IMAGE_PLACEHOLDER in text:
            raise part.error(f"expected {IMAGE_PLACEHOLDER} in what the assistant is shown, found it in what it says")
        yield Message(role, tuple(_parts(part, text, images)))


def _parts(fields: Fields, text: str, images: Iterator[Image]) -> Iterator[str | Image]:
    first, *others = text.split(IMAGE_PLACEHOLDER)
    if first or not others:
        yield first
    for piece in others:
        image = next(images, None)
        if image is None:
            raise fields.error(f"found more {IMAGE_PLACEHOLDER} in the texts than `images`")
        yield image
        if piece:
            yield piece


def _paths(fields: Fields) -> list[str]:
    paths = fields.items("images", ())
    if not all(isinstance(path, str) for path in paths):
        raise fields.error("images: expected paths, relative to the file")
    return paths
