"""Synthetic visual search as a data set in storage: questions by split, and captions as chains.

The scenes themselves are `vigorl_lib.data.synthetic`; this module gives every split seeds of its own,
and writes what they draw through the same functions that a user's own data goes through. Everything
follows from the seed, so a call that was cut off starts its part again and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from vigorl_lib.data.datasets import Part, find_manifest, write_dataset, write_dataset_chains
from vigorl_lib.data.synthetic import Scene, encode, make_caption, make_scene, render
from vigorl_lib.domain.example import AnswerKind, Example, GroundTruth
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, StopReason, Trajectory
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.prompts import load_prompt
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
    images: ImageStore | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Write `counts[split]` questions a split (train, validation, test) and `captions` caption chains.

    Half of a split's targets are small. No two splits, nor splits and captions, share a scene. What the
    manifest has already is skipped. `on_progress` gets the part's name, how many are done and of how many.
    Raises ConfigError (SPLIT_UNKNOWN, COUNT_INVALID), DataError (DATASET_EXISTS).
    """
    store = ImageStore(storage) if images is None else images
    wanted = {**counts, CAPTIONS: captions} if captions else dict(counts)
    for part, count in wanted.items():
        _check(part, count)
    for part, count in wanted.items():
        manifest = find_manifest(storage, name)
        origin = {"generator": "vigorl_lib.data.synthetic", "seed": seed, "count": count}
        existing = (manifest.chains if part == CAPTIONS else manifest.splits).get(part) if manifest else None
        if existing is not None:
            _must_agree(name, part, existing, origin)
            continue

        def report(done: int, part: str = part, count: int = count) -> None:
            if on_progress is not None:
                on_progress(part, done, count)

        seeds = range(first_seed(seed, part), first_seed(seed, part) + count)
        if part == CAPTIONS:
            chains = _counted((caption_chain(s, i, store) for i, s in enumerate(seeds)), report)
            write_dataset_chains(storage, name, CAPTIONS, chains, created_from=origin)
        else:
            examples = _counted((scene_example(make_scene(s), f"{part}-{i:06d}") for i, s in enumerate(seeds)), report)
            write_dataset(storage, store, name, part, examples, created_from=origin)


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


def caption_chain(seed: int, index: int, images: ImageStore) -> Trajectory:
    """A picture and its description as a demonstration chain; the picture is stored."""
    caption = make_caption(seed)
    image = images.put(*encode(caption.image)).without_data()
    prompt = (
        Message(Role.SYSTEM, (load_prompt(TASK, "caption").text,)),
        Message(Role.USER, (image,)),
    )
    return Trajectory(
        trajectory_id=f"{CAPTIONS}/{index:06d}",
        example_id=f"{CAPTIONS}-{index:06d}",
        mode=CAPTIONS,
        policy=CAPTION_AUTHOR,
        segments=(
            Segment(Origin.PROMPT, prompt),
            Segment(Origin.DEMONSTRATION, (Message(Role.ASSISTANT, (caption.text,)),), trained=True),
        ),
        turns=(),
        stop=StopReason.ANSWERED,
    )


def _counted(items: Iterator[T], report: Callable[[int], None]) -> Iterator[T]:
    for done, item in enumerate(items, start=1):
        yield item
        report(done)


def _check(part: str, count: int) -> None:
    if part not in _STREAMS:
        raise ConfigError(f"expected a split of {', '.join(_STREAMS[:3])}, found {part!r}", reason="SPLIT_UNKNOWN")
    if not 0 < count <= _SEEDS_PER_STREAM:
        raise ConfigError(
            f"{part}: expected between 1 and {_SEEDS_PER_STREAM} items, found {count}", reason="COUNT_INVALID"
        )


def _must_agree(name: str, part: str, existing: Part, origin: dict[str, Any]) -> None:
    if existing.created_from != origin:
        raise DataError(
            f"{name}/{part} exists, made from {existing.created_from}, wanted {origin}; "
            "write under another name or delete the data set first",
            reason="DATASET_EXISTS",
            dataset=name,
        )
