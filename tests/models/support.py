"""Small real things for tests of models and policies."""

from __future__ import annotations

import io

from PIL import Image as PILImage

from vigorl_lib.data import synthetic
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.storage.images import probe

SYSTEM = "You may zoom in with the tool, then answer."


def scene_image(seed: int) -> Image:
    """The encoded picture of a synthetic scene."""
    data, _ = synthetic.encode(synthetic.render(synthetic.make_scene(seed)))
    return probe(data)


def flat_image(width: int, height: int, color: str = "teal", format_name: str = "PNG") -> Image:
    buffer = io.BytesIO()
    PILImage.new("RGB", (width, height), color).save(buffer, format_name)
    return probe(buffer.getvalue())


def prompt(image: Image, question: str = "What color is the dot on the red tile?") -> Segment:
    user = Message(Role.USER, (image, f"\n{question}"))
    return Segment(Origin.PROMPT, (Message(Role.SYSTEM, (SYSTEM,)), user))


def observation(image: Image) -> Segment:
    return Segment(Origin.OBSERVATION, (Message(Role.USER, ("<observation>\n", image, "</observation>")),))


def said(origin: Origin, text: str) -> Segment:
    return Segment(origin, (Message(Role.ASSISTANT, (text,)),))
