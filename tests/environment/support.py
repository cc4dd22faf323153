"""Pictures, turns and whole episodes for the tests of the zoom environment."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from tests.pictures import encoded
from vigorl_lib.domain.geometry import Point, ResizeRule, Size
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.environment.base import Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment

RESIZE = ResizeRule(28, 784, 12_544)
"""448x448 originals are seen at 112x112, a quarter of each side."""
ORIGINAL, MODEL = Size(448, 448), Size(112, 112)
ZOOM = ZoomConfig(window_model_px=28, shown_px=112, max_turns=4)


def picture(pixels: NDArray[np.uint8]) -> Image:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return Image(digest(buffer.getvalue()), "image/png", Size(pixels.shape[1], pixels.shape[0]), buffer.getvalue())


def plain(color: int = 0, side: int = 448) -> Image:
    data = encoded(side, side, color=color)
    return Image(digest(data), "image/png", Size(side, side), data)


def checkered() -> Image:
    """Fields of two original pixels: grey in the model's view, black and white in a crop of the original."""
    rows, columns = np.indices((448, 448)) // 2 % 2
    return picture(np.repeat(((rows ^ columns) * 255)[..., None], 3, axis=2).astype(np.uint8))


def gradient() -> Image:
    """Red is x / 2 and green y / 2, so that a pixel tells where it was cut from."""
    y, x = np.indices((448, 448))
    return picture(np.stack([x // 2, y // 2, 0 * x], axis=2).astype(np.uint8))


def pixels(image: Image) -> NDArray[np.int64]:
    assert image.data is not None
    return np.asarray(PILImage.open(io.BytesIO(image.data)).convert("RGB"), dtype=np.int64)


def zoom(x: float, y: float) -> str:
    return render_turn(f"There ({x:g}, {y:g}).", Zoom(Point(x, y)))


ANSWER = render_turn("So.", Answer("pink"))


async def play(
    environment: ZoomEnvironment, texts: list[str], config: ZoomConfig = ZOOM, *, mode: str = "multi_turn"
) -> list[Outcome]:
    image = plain()
    state = (await environment.start(image, mode=mode, config=config, resize=RESIZE)).state
    outcomes = []
    for text in texts:
        outcomes.append(await environment.step(state, text, image))
        state = outcomes[-1].state
    return outcomes
