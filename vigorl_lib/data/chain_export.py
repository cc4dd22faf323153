"""What every export of chains shares: which ones can be told in the format, and their images as files.

Points of a chain are pixels of the first view, so the first image is written at that size: a processor that keeps
images of whole visual tokens as they are then sees what the points were made for, and so does one that knows
nothing of our frames. Every image is one file, named after its content, however many chains show it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Origin, Trajectory
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore


@dataclass(frozen=True, slots=True)
class Exported:
    """How many chains were written, and how many left out because a format has no mask for turns."""

    written: int
    left_out: int


@dataclass(slots=True)
class ImageFiles:
    """Writes images under `prefix` and gives their names, relative to it."""

    storage: Storage
    images: ImageStore
    prefix: str
    written: set[str] = field(default_factory=set)

    def names(self, chain: Trajectory) -> list[str]:
        """File names of a chain's images in the order of its messages. Raises ObjectNotFound, CorruptObject."""
        names: list[str] = []
        for segment in chain.segments:
            for image in segment.images:
                # Of the question's images only the first has a model frame. Crops are already as they were shown.
                size = (chain.model_size if not names else None) or image.size
                names.append(self._crop(image) if segment.origin is Origin.OBSERVATION else self._view(image, size))
        return names

    def _view(self, image: Image, size: Size) -> str:
        """An image of the question, upright whatever its header says of orientation."""
        name = f"images/{image.sha256}-{size.width}x{size.height}.png"
        return self._write(name, lambda: _resized(self._data(image), size))

    def _crop(self, image: Image) -> str:
        suffix = image.media_type.removeprefix("image/")
        return self._write(f"images/{image.sha256}.{suffix}", lambda: self._data(image))

    def _write(self, name: str, data: Callable[[], bytes]) -> str:
        if name not in self.written:
            self.storage.write(f"{self.prefix}/{name}", data())
            self.written.add(name)
        return name

    def _data(self, image: Image) -> bytes:
        data = self.images.load(image).data
        assert data is not None
        return data


def messages(chain: Trajectory) -> list[Message]:
    """The conversation, one message after the other."""
    return [message for segment in chain.segments for message in segment.messages]


def tellable(chains: Iterable[Trajectory]) -> tuple[list[Trajectory], int]:
    """Chains whose every assistant turn is to be learnt, and how many others there are.

    Neither format can show a turn without training on it. Such chains (corrected ones with several turns, unless
    `linearize.train_wrong_branch` is set) would teach the way astray.
    """
    found = list(chains)
    kept = [
        chain
        for chain in found
        if all(segment.trained for segment in chain.segments if segment.origin is Origin.DEMONSTRATION)
    ]
    return kept, len(found) - len(kept)


def tellable_splits(
    chains: Mapping[str, Sequence[Trajectory]],
) -> tuple[dict[str, list[Trajectory]], Exported]:
    """The tellable chains of each split that has any, and how many chains those are."""
    parts = {split: tellable(part) for split, part in chains.items()}
    kept = {split: part for split, (part, _) in parts.items() if part}
    return kept, Exported(sum(map(len, kept.values())), sum(left_out for _, left_out in parts.values()))


def _resized(data: bytes, size: Size) -> bytes:
    from PIL import Image as PILImage

    from vigorl_lib.models.pixels import decode

    buffer = io.BytesIO()
    decode(data).resize((size.width, size.height), PILImage.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()
