"""Synthetic visual search as a data set in storage: questions by split, and captions as chains.

The scenes themselves are `vigorl_lib.data.synthetic`; this module gives every split seeds of its own,
and writes what they draw through the same functions that a user's own data goes through. Everything
follows from the seed, so a call that was cut off starts its part again and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from vigorl_lib.data.datasets import find_manifest, write_dataset, write_dataset_chains
from vigorl_lib.data.synthetic import Scene, encode, make_caption, make_scene, render
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore, probe

T = TypeVar("T")

TASK = "synthetic_search"
CAPTIONS = "captions"
"""Name of the data set's caption chains, and their mode."""
CAPTION_AUTHOR = "synthetic (scripted)"

_STREAMS = ("train", "validation", "test", CAPTIONS)
_SEEDS_PER_STREAM = 10_000_000
"""Even, and a multiple of five: a scene's size and a caption's kind follow from its seed modulo ten."""


def make_synthetic(
    storage: Storage,
    name: str,
    counts: Mapping[str, int],
    seed: int,
    *,
    captions: int = 0,
    caption_prompt: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `counts[split]` questions a split (train, validation, test) and `captions` caption chains.

    Half of a split's targets are small. No two splits, nor splits and captions, share a scene. What the
    manifest has already is skipped. `caption_prompt` is the captions' system prompt, none if empty.
    `on_progress` gets how many pictures are done and how many there are to be. Raises ConfigError
    (SPLIT_UNKNOWN, COUNT_INVALID), DataError (DATASET_EXISTS).
    """
    images = ImageStore(storage, cache_bytes=0)
    wanted = {**counts, CAPTIONS: captions} if captions else dict(counts)
    for part, count in wanted.items():
        _check(part, count)
    progress = _Progress(sum(wanted.values()), on_progress)
    for part, count in wanted.items():
        origin: dict[str, Any] = {"generator": "vigorl_lib.data.synthetic", "seed": seed, "count": count}
        if part == CAPTIONS:
            origin["prompt"] = caption_prompt
        if _is_written(storage, name, part, origin):
            progress.skip(count)
            continue
        seeds = range(first_seed(seed, part), first_seed(seed, part) + count)
        if part == CAPTIONS:
            chains = (caption_chain(scene_seed, i, images, caption_prompt) for i, scene_seed in enumerate(seeds))
            write_dataset_chains(storage, name, CAPTIONS, progress.count(chains), created_from=origin)
        else:
            examples = (scene_example(make_scene(scene_seed), f"{part}-{i:06d}") for i, scene_seed in enumerate(seeds))
            write_dataset(storage, images, name, part, progress.count(examples), created_from=origin)


def first_seed(seed: int, part: str) -> int:
    """Scene seed of the first item of a split or of the captions."""
    return (seed * len(_STREAMS) + _STREAMS.index(part)) * _SEEDS_PER_STREAM


def scene_example(scene: Scene, example_id: str) -> Example:
    """The example of a scene, with its picture's bytes. Evidence and distractors are the tiles."""
    data, _ = encode(render(scene))
    truth = GroundTruth(
        answer=scene.answer,
        kind=AnswerKind.STRING,
        evidence=(scene.target.box,),
        distractors=tuple(tile.box for tile in scene.distractors),
    )
    return Example(example_id, scene.question, (probe(data),), truth, TASK, {"size": scene.size_class.value})


def caption_chain(seed: int, index: int, images: ImageStore, system_prompt: str) -> Trajectory:
    """A picture and its description as a demonstration chain; the picture is stored."""
    caption = make_caption(seed)
    image = images.put(*encode(caption.image)).without_data()
    system = (Message(Role.SYSTEM, (system_prompt,)),) if system_prompt else ()
    return Trajectory(
        trajectory_id=f"{CAPTIONS}/{index:06d}",
        example_id=f"{CAPTIONS}-{index:06d}",
        mode=CAPTIONS,
        policy=CAPTION_AUTHOR,
        segments=(
            Segment(Origin.PROMPT, (*system, Message(Role.USER, (image,)))),
            Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (caption.text,)),), trained=True),
        ),
        turns=(),
        stop=StopReason.ANSWERED,
    )


class _Progress:
    """Counts pictures over all parts."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def skip(self, count: int) -> None:
        self._done += count

    def count(self, items: Iterator[T]) -> Iterator[T]:
        for item in items:
            yield item
            self._done += 1
            if self._report is not None:
                self._report(self._done, self._total)


def _check(part: str, count: int) -> None:
    if part not in _STREAMS:
        raise ConfigError(f"expected a split of {', '.join(_STREAMS[:3])}, found {part!r}", reason="SPLIT_UNKNOWN")
    if not 0 < count <= _SEEDS_PER_STREAM:
        raise ConfigError(
            f"{part}: expected between 1 and {_SEEDS_PER_STREAM} items, found {count}", reason="COUNT_INVALID"
        )


def _is_written(storage: Storage, name: str, part: str, origin: dict[str, Any]) -> bool:
    """True if the manifest has the part, made the same way; raises DataError if made another way."""
    manifest = find_manifest(storage, name)
    if manifest is None:
        return False
    existing = (manifest.chains if part == CAPTIONS else manifest.splits).get(part)
    if existing is not None and existing.created_from != origin:
        raise DataError(
            f"{name}/{part} exists, made from {existing.created_from}, wanted {origin}; "
            "write under another name or delete the data set first",
            reason="DATASET_EXISTS",
            dataset=name,
        )
    return existing is not None
