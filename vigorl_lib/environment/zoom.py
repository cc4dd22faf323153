"""The zoom environment: it answers a zoom with the crop around the point.

Crops are cut from the original, so a zoom adds detail that the model's view does not have. Stateless:
see `vigorl_lib.environment.base`. Decoding, resizing and encoding run in a small thread pool, which
Pillow serves without holding the interpreter's lock; what can be refused by an image's header is refused before.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from PIL import Image as PILImage
from PIL import ImageDraw

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.geometry import Box, Crop, Frame, FrameMap, Point, ResizeRule, Size, crop_window
from vigorl_lib.domain.grammar import MODES, Answer, Continue, Malformed, Turn, Zoom, parse_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import InvalidTurn, Message, Role, StopReason
from vigorl_lib.domain.wire import observation_text
from vigorl_lib.environment.base import Episode, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.state import LOCAL_KEY, EpisodeSetting, EpisodeState, Seal
from vigorl_lib.errors import DataError, EpisodeError
from vigorl_lib.models.pixels import decode, model_view
from vigorl_lib.rpc.convert import invalid as invalid_request
from vigorl_lib.storage.images import DEFAULT_MAX_PIXELS

DEFAULT_CACHE_BYTES = 512 << 20
"""Decoded originals and model views kept in memory."""
JPEG_QUALITY = 95
"""Crops travel as JPEG without chroma subsampling."""

DOT_RADIUS_PX, DOT_OUTLINE_PX = 7, 2
"""The reference's dot, drawn before the crop is resized."""

GO_ON = "Please go on."
"""What the policy reads after a thought alone, and after an invalid turn in the mode `ignore`."""
_GO_ON_MESSAGE = Message(Role.USER, (GO_ON,))

_BYTES_PER_PIXEL = 4
"""Pillow pads RGB to four bytes."""

T = TypeVar("T")


class ZoomEnvironment:
    """Environment protocol, in this process. `key` signs the states."""

    def __init__(self, *, key: bytes = LOCAL_KEY, cache_bytes: int = DEFAULT_CACHE_BYTES, threads: int = 2) -> None:
        self._seal = Seal(key)
        self._pictures = PictureCache(cache_bytes)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="zoom")

    async def start(self, image: Image, *, mode: str, config: ZoomConfig, resize: ResizeRule) -> Episode:
        if mode not in MODES:
            raise DataError(f"mode: expected one of {', '.join(MODES)}, found {mode!r}", reason="MODE_UNKNOWN")
        model_size = _model_size(image, resize)
        # Decoding now refuses a bad image before the policy spends a token on it.
        await self._run(partial(self._pictures.original, image))
        setting = EpisodeSetting(image.sha256, image.size, mode, config, resize)
        return Episode(self._seal.encode(EpisodeState(setting)), model_size)

    async def step(self, state: bytes, text: str, image: Image) -> Outcome:
        before = self._seal.decode(state)
        setting = before.setting
        if setting.image_sha256 != image.sha256:
            raise EpisodeError(
                f"this state belongs to image {setting.image_sha256[:12]}, found {image.sha256[:12]}",
                reason="STATE_INVALID",
            )
        if before.over:
            raise EpisodeError(
                f"this episode ended after {before.turns} turns; go on from an earlier state, or start another",
                reason="EPISODE_OVER",
            )
        config = setting.config
        turn = parse_turn(text, MODES[setting.mode], strict=config.strict)
        match turn.action:
            case Answer():
                return self._end(before.after_turn(over=True), turn, StopReason.ANSWERED)
            case Malformed(_, detail):
                return self._invalid(before, turn, InvalidTurn.MALFORMED, detail)
            case Continue():
                return self._go_on(before.after_turn(), turn, _GO_ON_MESSAGE)
            case Zoom(point):
                problem = _problem(point, before)
                if problem is not None:
                    return self._invalid(before, turn, *problem)
                if before.turns + 1 >= config.max_turns:
                    return self._end(before.after_turn(over=True), turn, StopReason.MAX_TURNS)
                crop, shown = await self.crop(image, point, config=config, resize=setting.resize)
                opening, closing = observation_text(config.observation, dot=config.dot)
                message = Message(Role.USER, (opening, shown, closing))
                outcome = self._go_on(before.after_turn(zoomed=point), turn, message)
                return replace(outcome, crop=crop, crop_image=shown)

    async def crop(self, image: Image, center: Point, *, config: ZoomConfig, resize: ResizeRule) -> tuple[Crop, Image]:
        return await self._run(partial(self._crop, image, center, config, resize))

    async def close(self) -> None:
        self._pool.shutdown(wait=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _invalid(self, before: EpisodeState, turn: Turn, invalid: InvalidTurn, detail: str) -> Outcome:
        after, config = before.after_turn(invalid=True), before.setting.config
        if config.on_invalid == "stop" or after.invalid_turns > config.max_invalid_turns:
            outcome = self._end(replace(after, over=True), turn, StopReason.INVALID_TURNS)
        else:
            text = f"That turn could not be used: {detail}." if config.on_invalid == "tell" else GO_ON
            outcome = self._go_on(after, turn, Message(Role.USER, (text,)))
        return replace(outcome, invalid=invalid, detail=detail)

    def _go_on(self, after: EpisodeState, turn: Turn, message: Message) -> Outcome:
        if after.turns >= after.setting.config.max_turns:
            return self._end(replace(after, over=True), turn, StopReason.MAX_TURNS)
        return Outcome(self._seal.encode(after), turn, message, None)

    def _end(self, after: EpisodeState, turn: Turn, stop: StopReason) -> Outcome:
        return Outcome(self._seal.encode(after), turn, None, stop)

    def _crop(self, image: Image, center: Point, config: ZoomConfig, resize: ResizeRule) -> tuple[Crop, Image]:
        frames = FrameMap(image.size, _model_size(image, resize))
        point = frames.point(center, Frame.MODEL)
        if not frames.inside(point):
            raise DataError(_outside(point, frames), reason="POINT_OUTSIDE", x=point.x, y=point.y)
        box = crop_box(frames, point, config)
        source = self._pictures.original(image)
        if config.source == "model":
            source = self._pictures.view(image, source, resize)
        picture = source.crop((int(box.x0), int(box.y0), int(box.x1), int(box.y1)))
        if config.dot:
            _draw_dot(picture, frames.point(point, box.frame), box)
        crop = Crop(frames.box(box, Frame.ORIGINAL), shown_size(box, config, resize))
        size = (crop.shown.width, crop.shown.height)
        if picture.size != size:
            picture = picture.resize(size, PILImage.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        data = buffer.getvalue()
        return crop, Image(digest(data), "image/jpeg", crop.shown, data)


def crop_box(frames: FrameMap, point: Point, config: ZoomConfig) -> Box:
    """The window around a point, in the frame that pixels are cut from; integer edges."""
    frame = Frame(config.source)
    center = frames.point(point, frame)
    scale_x = frames.extent(frame)[0] / frames.model.width
    scale_y = frames.extent(frame)[1] / frames.model.height
    side = config.window_model_px
    if config.window_share:
        side = max(1, round(config.window_share * max(frames.model.width, frames.model.height)))
    size = (side * scale_x, side * scale_y)
    image = frames.original if frame is Frame.ORIGINAL else frames.model
    return crop_window(center, size, image, config.border)


def shown_size(box: Box, config: ZoomConfig, resize: ResizeRule) -> Size:
    """Size at which a window is shown: the longer side as configured, aspect kept, whole visual tokens.

    A clamped window is stretched to a square, as the reference does.
    """
    factor = resize.factor
    longest = max(factor, round(config.shown_px / factor) * factor)
    if config.border == "clamp":
        return Size(longest, longest)
    unit = longest / max(box.width, box.height)
    return Size(
        max(factor, round(box.width * unit / factor) * factor), max(factor, round(box.height * unit / factor) * factor)
    )


def _problem(point: Point, state: EpisodeState) -> tuple[InvalidTurn, str] | None:
    """Why a zoom cannot be granted."""
    setting, config = state.setting, state.setting.config
    frames = FrameMap(setting.original_size, setting.model_size)
    if not frames.inside(point):
        return InvalidTurn.OUTSIDE, _outside(point, frames)
    if any(point.distance(earlier) < config.min_distance_px for earlier in state.zoomed):
        nearest = f"nearer than {config.min_distance_px:g} px to an earlier one"
        return InvalidTurn.REPEATED, f"the point ({point.x:g}, {point.y:g}) is {nearest}"
    if config.max_zooms and len(state.zoomed) >= config.max_zooms:
        return InvalidTurn.OVER_BUDGET, f"no zoom is left of {config.max_zooms}, only an answer can follow"
    return None


def _model_size(image: Image, resize: ResizeRule) -> Size:
    """The model frame of an image. Raises DataError (IMAGE_ASPECT_RATIO, REQUEST_INVALID), by the header alone."""
    size = resize.model_size(image.size)
    if max(size.area, resize.factor**2) > DEFAULT_MAX_PIXELS:
        raise invalid_request("resize", f"views of at most {DEFAULT_MAX_PIXELS} pixels", f"{size.width}x{size.height}")
    return size


def _outside(point: Point, frames: FrameMap) -> str:
    size = frames.model
    return f"the point ({point.x:g}, {point.y:g}) lies outside the image of {size.width}x{size.height} px"


def _draw_dot(picture: PILImage.Image, point: Point, box: Box) -> None:
    x, y, r = point.x - box.x0, point.y - box.y0, DOT_RADIUS_PX
    ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill="red", outline="white", width=DOT_OUTLINE_PX)


class PictureCache:
    """Decoded originals and their model views, bounded by their bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self._pictures: ByteCache[PILImage.Image] = ByteCache(max_bytes, _size_bytes)

    def original(self, image: Image) -> PILImage.Image:
        """The picture, RGB and upright.

        Raises DataError: as `decode`, and IMAGE_SIZE where `image` tells another size. Raises EpisodeError
        (IMAGE_NOT_CACHED) without its bytes.
        """
        picture = self._pictures.get(image.sha256)
        if picture is None:
            if image.data is None:
                raise EpisodeError(
                    f"image {image.sha256[:12]} is not cached here; send its bytes",
                    reason="IMAGE_NOT_CACHED",
                    sha256=image.sha256,
                )
            picture = self._pictures.put(image.sha256, decode(image.data))
        if picture.size != (image.size.width, image.size.height):
            # Points would be mapped to where nobody meant them.
            raise DataError(
                f"{image.sha256[:12]}: expected {image.size.width}x{image.size.height} pixels, as its record says, "
                f"found {picture.width}x{picture.height}; import it again",
                reason="IMAGE_SIZE",
            )
        return picture

    def view(self, image: Image, original: PILImage.Image, resize: ResizeRule) -> PILImage.Image:
        """The original in the model frame."""
        size = resize.model_size(image.size)
        if size == image.size:
            return original
        key = f"{image.sha256} {size.width}x{size.height}"
        return self._pictures.get(key) or self._pictures.put(key, model_view(original, resize))


def _size_bytes(picture: PILImage.Image) -> int:
    return picture.width * picture.height * _BYTES_PER_PIXEL
