"""Zoom crops from a cached 3.4-megapixel original (672 px, JPEG out) against plain Pillow doing the same."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from PIL import Image as PILImage

from vigorl_lib.domain.geometry import Point, ResizeRule
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.storage.images import probe

CROPS, ROUNDS = 20, 15
CONFIG, RESIZE = ZoomConfig(window_model_px=364, shown_px=672), ResizeRule(28, 3136, 12_960_000)


def run() -> dict[str, float]:
    rng = np.random.default_rng(0)
    coarse = PILImage.fromarray(rng.integers(0, 256, (160, 212, 3), dtype=np.uint8))
    picture = coarse.resize((2128, 1596), PILImage.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    image = probe(buffer.getvalue())
    points = [Point(random.Random(k).randrange(2128), random.Random(-k).randrange(1596)) for k in range(CROPS)]
    ours, plain = [], []
    environment = ZoomEnvironment(threads=1)

    async def crops() -> None:
        # All at once, as many rollouts ask; one thread cuts them one after the other, as the plain loop does.
        await asyncio.gather(*(environment.crop(image, point, config=CONFIG, resize=RESIZE) for point in points))

    with asyncio.Runner() as runner:
        runner.run(crops())
        for _ in range(ROUNDS):
            ours.append(_timed(lambda: runner.run(crops())))
            plain.append(_timed(lambda: [_plain(picture, point) for point in points]))
        runner.run(environment.close())
    # Of neighbouring rounds, since a busy machine is about equally busy for both; CPU time hardly minds at all.
    wall, cpu = ([theirs[k] / our[k] for theirs, our in zip(plain, ours, strict=True)] for k in (0, 1))
    return {
        "pillow_ratio": median(wall),
        "pillow_ratio_cpu": median(cpu),
        "crops_per_s_cached": CROPS / median(seconds for seconds, _ in ours),
        "crops_per_cpu_s_cached": CROPS / median(seconds for _, seconds in ours),
        "pillow_crops_per_s": CROPS / median(seconds for seconds, _ in plain),
    }


def _plain(picture: PILImage.Image, point: Point) -> bytes:
    left = min(max(round(point.x - 182), 0), picture.width - 364)
    top = min(max(round(point.y - 182), 0), picture.height - 364)
    crop = picture.crop((left, top, left + 364, top + 364)).resize((672, 672), PILImage.Resampling.BICUBIC)
    buffer = io.BytesIO()
    crop.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of CPU, all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu
