"""The Environment protocol: who answers a policy's action.

An environment is stateless: everything that a step needs travels in the opaque `state` that the last
call returned, and the image comes along (or is looked up by digest). The same state, text and image
always give the same outcome. `vigorl_lib.environment.zoom` is the local implementation,
`vigorl_lib.environment.client` the gRPC client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vigorl_lib.domain.geometry import Crop, Point, ResizeRule, Size
from vigorl_lib.domain.grammar import Turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import InvalidTurn, Message, StopReason
from vigorl_lib.environment.config import ZoomConfig


@dataclass(frozen=True, slots=True)
class Episode:
    """An opened episode: the state, and the size at which the policy sees the image."""

    state: bytes
    model_size: Size


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one turn.

    `observation` is the user message that the policy sees next, None when the episode is over.
    `stop` is set when it is over. `invalid` and `detail` say why a turn could not be acted on.
    """

    state: bytes
    turn: Turn
    observation: Message | None
    stop: StopReason | None
    invalid: InvalidTurn | None = None
    detail: str = ""
    crop: Crop | None = None
    crop_image: Image | None = None


class Environment(Protocol):
    async def start(self, image: Image, *, mode: str, config: ZoomConfig, resize: ResizeRule) -> Episode:
        """Open an episode on one image. Raises DataError for an image that cannot be used."""
        ...

    async def step(self, state: bytes, text: str, image: Image) -> Outcome:
        """Apply one policy turn; a bad one is an outcome.

        Raises EpisodeError (STATE_INVALID, EPISODE_OVER, IMAGE_NOT_CACHED), DataError.
        """
        ...

    async def crop(self, image: Image, center: Point, *, config: ZoomConfig, resize: ResizeRule) -> tuple[Crop, Image]:
        """Only the crop around a point. Raises DataError (POINT_OUTSIDE)."""
        ...

    async def close(self) -> None: ...
