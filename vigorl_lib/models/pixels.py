"""From encoded bytes to what a vision tower takes: decode, resize to the model frame, cut into patches.

Decoding is refused by the header before it costs memory, applies EXIF orientation once and always gives RGB.
We resize to the model frame ourselves, so that every engine's own resize is the identity and all engines see
the same pixels. `ViewCache` keeps model views, which are small; patches, sixteen times larger, are made when a
batch needs them. Storing images and reading their headers is `vigorl_lib.storage.images`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageOps

from vigorl_lib.domain.cache import ByteCache
from vigorl_lib.domain.geometry import ResizeRule, Size
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError, PolicyError
from vigorl_lib.storage.images import DEFAULT_MAX_PIXELS, UNREADABLE, open_picture, probe

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2VLImageProcessorPil

DEFAULT_VIEW_CACHE_BYTES = 256 << 20

View = NDArray[np.uint8]
"""An image in the model frame, [height, width, 3]."""


def decode(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> PILImage.Image:
    """The picture as RGB, upright; transparent parts become white.

    Raises DataError: IMAGE_UNREADABLE (no image, or cut short), IMAGE_TOO_LARGE (before decoding),
    IMAGE_ANIMATED, IMAGE_MODE (more than 8 bits a channel).
    """
    image = probe(data, max_pixels=max_pixels)
    try:
        picture = open_picture(data)
        # A phone's MPO file carries further frames for depth; its first one is the photograph.
        frames = 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))
        fit = frames == 1 and not picture.mode.startswith(("I", "F"))
        upright = _flatten(ImageOps.exif_transpose(picture)) if fit else None
    except (*UNREADABLE, PILImage.DecompressionBombError) as error:
        raise DataError(
            f"expected a whole {image.media_type}, found one that cannot be decoded ({error}); save it again",
            reason="IMAGE_UNREADABLE",
        ) from error
    if upright is not None:
        # Else points would be in another frame than anybody was told.
        if upright.size != (image.size.width, image.size.height):
            raise DataError(
                f"expected an image of {image.size.width}x{image.size.height} pixels by its header, decoded "
                f"{upright.width}x{upright.height}; its orientation is told in two ways: save it again",
                reason="IMAGE_UNREADABLE",
            )
        return upright
    if frames > 1:
        raise DataError(
            f"expected a still image, found one with {frames} frames; save one of them", reason="IMAGE_ANIMATED"
        )
    raise DataError(
        f"expected 8 bits a channel, found Pillow mode {picture.mode}; convert the image to 8 bits",
        reason="IMAGE_MODE",
    )


def _flatten(picture: PILImage.Image) -> PILImage.Image:
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return PILImage.alpha_composite(PILImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def model_view(picture: PILImage.Image, resize: ResizeRule) -> PILImage.Image:
    """The picture in the model frame, by bicubic filter as the families' own processors do."""
    size = resize.model_size(Size(*picture.size))
    if picture.size == (size.width, size.height):
        return picture
    return picture.resize((size.width, size.height), PILImage.Resampling.BICUBIC)


class ViewCache:
    """Model views by digest, the least recently used dropped first. Safe to use from several threads."""

    def __init__(self, resize: ResizeRule, *, max_bytes: int = DEFAULT_VIEW_CACHE_BYTES) -> None:
        self.resize = resize
        self._views: ByteCache[View] = ByteCache(max_bytes, lambda view: view.nbytes)

    def get(self, image: Image) -> View:
        """The view of an image. Raises DataError, and PolicyError (IMAGE_NOT_CACHED) if it has come without bytes."""
        if (view := self._views.get(image.sha256)) is not None:
            return view
        if image.data is None:
            raise PolicyError(
                f"image {image.sha256[:12]} is not cached here; send its bytes",
                reason="IMAGE_NOT_CACHED",
                sha256=image.sha256,
            )
        return self._views.put(image.sha256, np.asarray(model_view(decode(image.data), self.resize)))

    @property
    def size_bytes(self) -> int:
        return self._views.used_bytes


def to_patches(views: Sequence[View], processor: Qwen2VLImageProcessorPil) -> tuple[Tensor, Tensor]:
    """`pixel_values` [patches, width] float32 and `image_grid_thw` [images, 3] of some views, in order.

    They are bit for bit what the processor itself makes of views, some five times quicker: patches in squares of
    `merge_size`, of each its channels, and of each channel the same frame `temporal_patch_size` times.
    """
    import torch

    side, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    grids = [(1, view.shape[0] // side, view.shape[1] // side) for view in views]
    counts = [rows * columns for _, rows, columns in grids]
    values = np.empty((sum(counts), 3, frames, side, side), dtype=np.float32)
    start = 0
    for view, (_, rows, columns), count in zip(views, grids, counts, strict=True):
        squares = view.reshape(rows // merge, merge, side, columns // merge, merge, side, 3)
        patches = squares.transpose(0, 3, 1, 4, 6, 2, 5).reshape(count, 3, side, side)
        values[start : start + count] = _normalised(patches, processor)[:, :, None]
        start += count
    return torch.from_numpy(values.reshape(len(values), -1)), torch.tensor(grids)


def _normalised(patches: NDArray[np.uint8], processor: Qwen2VLImageProcessorPil) -> NDArray[np.float32]:
    """[patches, channels, height, width], with the processor's own operations in their order and precision."""
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    values = (patches * np.float64(scale)).astype(np.float32)
    if processor.do_normalize:
        values -= np.array(processor.image_mean, dtype=np.float32)[:, None, None]
        values /= np.array(processor.image_std, dtype=np.float32)[:, None, None]
    return values
