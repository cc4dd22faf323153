"""What is wrong with a data set, line by line: one that is in storage, or files that are to be imported.

Every record is read as the rest of the system would read it and every image is decoded once, so what passes here is
not refused later. Nothing is written. What may be meant but often is not stands apart, as a remark.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

from vigorl_lib.data.chain_files import read_chain_file
from vigorl_lib.data.datasets import read_dataset_chains, read_manifest, split_lines
from vigorl_lib.data.drafts import Pictures
from vigorl_lib.data.fields import Fields, parse_line
from vigorl_lib.data.formats import CHAIN_FORMATS
from vigorl_lib.data.importers import OnProgress, Source, read_source
from vigorl_lib.data.records import record_to_example
from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.image import Image
from vigorl_lib.errors import DataError, VigorlError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore, probe

IMAGE_THREADS = 8


@dataclass(slots=True)
class Checked:
    """What was found. `problems` are messages that begin with their place, `remarks` what may be meant so.

    `samples` are some examples whose image has its bytes, drawn by the digests of the images.
    """

    problems: list[VigorlError] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    examples: int = 0
    chains: int = 0
    images: int = 0
    skipped: int = 0
    samples: list[tuple[Example, Image]] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[str]:
        """How many problems there are of each reason."""
        return Counter(problem.reason for problem in self.problems)


def check_source(
    source: Source, split: str, *, samples: int = 0, on_progress: OnProgress = lambda d, t: None
) -> Checked:
    """Check files that are to be imported as `split`. Raises DataError where they cannot be read at all."""
    checked, eye = Checked(), _Eye(samples)
    examples: list[tuple[str, Example]] = []
    if source.format in CHAIN_FORMATS:
        return _finished(checked, _chain_examples(source, checked, eye, on_progress), eye)
    for result in read_source(source, split, eye.look, on_progress=on_progress):
        match result:
            case Example():
                examples.append((result.example_id, result))
            case DataError():
                checked.problems.append(result)
            case None:
                checked.skipped += 1
    if not examples and not checked.problems:
        checked.problems.append(DataError(f"{source.path}: expected at least one row, found none", reason="EMPTY"))
    return _finished(checked, examples, eye)


def check_dataset(
    storage: Storage, name: str, *, samples: int = 0, on_progress: OnProgress = lambda d, t: None
) -> Checked:
    """Check all splits and chains of a data set in storage; progress is of its images.

    Raises DataError (DATASET_UNKNOWN).
    """
    checked, eye = Checked(), _Eye(samples)
    manifest = read_manifest(storage, name)
    examples: list[tuple[str, Example]] = []
    for split in manifest.splits:
        try:
            examples += _records(storage, name, split, checked.problems)
        except VigorlError as error:
            checked.problems.append(error)
    checked.problems += _twice(examples)
    shown = [(where, image) for where, example in examples for image in example.images]
    for chains in manifest.chains:
        try:
            found = read_dataset_chains(storage, name, chains)
        except VigorlError as error:
            checked.problems.append(error)
            continue
        checked.chains += len(found)
        for chain in found:
            shown += [(f"{chains}: {chain.trajectory_id}", image) for part in chain.segments for image in part.images]
    checked.problems += _pictures(ImageStore(storage, cache_bytes=0), shown, eye, on_progress)
    checked.problems += _shared(examples)
    return _finished(checked, examples, eye)


def _finished(checked: Checked, examples: list[tuple[str, Example]], eye: _Eye) -> Checked:
    checked.examples = len(examples)
    checked.images = len({image.sha256 for _, example in examples for image in example.images})
    hidden = [where for where, example in examples if not _shows_choices(example)]
    if hidden:
        checked.remarks.append(
            f"{len(hidden)} questions do not name all of their choices, which the policy then does not know "
            f"(first: {hidden[0]})"
        )
    about: dict[str, list[Example]] = {sha256: [] for sha256 in eye.kept}
    for _, example in examples:
        about.get(example.images[0].sha256, []).append(example)
    # Of several questions about an image, one that its digest draws.
    checked.samples = [(some[int(sha256, 16) % len(some)], eye.kept[sha256]) for sha256, some in about.items() if some]
    return checked


def _chain_examples(source: Source, checked: Checked, eye: _Eye, on_progress: OnProgress) -> list[tuple[str, Example]]:
    """The questions that the chains of a file answer, each once, with the place of the first chain."""
    found: dict[str, tuple[str, Example]] = {}
    root = source.images or source.path.parent
    for result in read_chain_file(source.path, Pictures(eye.look), root, on_progress):
        if isinstance(result, DataError):
            checked.problems.append(result)
        else:
            checked.chains += 1
            found.setdefault(result.example.example_id, (result.where, result.example))
    return list(found.values())


def _records(storage: Storage, name: str, split: str, problems: list[VigorlError]) -> Iterator[tuple[str, Example]]:
    for where, line in split_lines(storage, name, split):
        place = where.rpartition("/")[2]
        try:
            yield place, record_to_example(parse_line(line, place).values, where=place)
        except DataError as error:
            problems.append(error)


def _twice(examples: Sequence[tuple[str, Example]]) -> Iterator[DataError]:
    seen: dict[str, str] = {}
    for where, example in examples:
        first = seen.setdefault(example.example_id, where)
        if first != where:
            yield Fields({}, where).error(f"the id {example.example_id!r} is used at {first} already", "DUPLICATE_ID")


def _shared(examples: Sequence[tuple[str, Example]]) -> Iterator[DataError]:
    """Images that are in more than one split: what is measured there may have been learnt."""
    seen: dict[str, str] = {}
    for where, example in examples:
        for image in example.images:
            first = seen.setdefault(image.sha256, where)
            if _split(first) != _split(where):
                yield Fields({}, where).error(
                    f"shows the image {image.sha256[:12]} that {first} shows; splits should share none",
                    "SPLITS_OVERLAP",
                )


def _split(where: str) -> str:
    return where.rpartition(":")[0]


def _shows_choices(example: Example) -> bool:
    truth = example.truth
    question = example.question.lower()
    return truth.kind is not AnswerKind.CHOICE or all(choice.lower() in question for choice in truth.choices)


def _pictures(
    store: ImageStore, shown: Sequence[tuple[str, Image]], eye: _Eye, on_progress: OnProgress
) -> Iterator[VigorlError]:
    """What is wrong with each different image, told at the first place that shows it."""
    first: dict[Image, str] = {}
    for where, image in shown:
        first.setdefault(image, where)

    def look(item: tuple[Image, str]) -> VigorlError | None:
        image, where = item
        try:
            data = store.load(image).data
            assert data is not None
            found = eye.look(data)
        except VigorlError as error:
            return type(error)(f"{where}: {error.message}", reason=error.reason, where=where)
        if (found.size, found.media_type) != (image.size, image.media_type):
            return Fields({}, where).error(
                f"images: the record says {image.media_type}, {image.size.width}x{image.size.height}; the image "
                f"{image.sha256[:12]} is {found.media_type}, {found.size.width}x{found.size.height}"
            )
        return None

    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        for done, problem in enumerate(pool.map(look, first.items()), start=1):
            if problem is not None:
                yield problem
            on_progress(done, len(first))


class _Eye:
    """Decodes images and keeps the bytes of a few: those of the smallest digests, which is a fair draw."""

    def __init__(self, count: int) -> None:
        self._count, self._lock = count, Lock()
        self._heap: list[tuple[int, str]] = []
        self.kept: dict[str, Image] = {}

    def look(self, data: bytes) -> Image:
        """The image of these bytes. Raises DataError where it could not be decoded later."""
        from vigorl_lib.models.pixels import decode

        image = probe(data)
        decode(data)
        with self._lock:
            self._keep(image)
        return image

    def _keep(self, image: Image) -> None:
        if image.sha256 in self.kept or not self._count:
            return
        heapq.heappush(self._heap, (-int(image.sha256, 16), image.sha256))
        self.kept[image.sha256] = image
        if len(self._heap) > self._count:
            del self.kept[heapq.heappop(self._heap)[1]]
