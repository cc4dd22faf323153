"""Questions and images of any known format, brought into storage as one split of a data set.

Every row is read even if one is wrong; what is wrong is told with file and line, and nothing becomes a data set until
all is right. Images are read, checked and stored several at a time, each content once, so an import that was cut off
and is started again stores only what is not there yet. Formats are `vigorl_lib.data.formats`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vigorl_lib.data.chain_files import ReadChain, read_chain_file
from vigorl_lib.data.datasets import write_dataset, write_dataset_chains
from vigorl_lib.data.drafts import Pictures, Put, Read
from vigorl_lib.data.fields import Fields
from vigorl_lib.data.folders import split_files
from vigorl_lib.data.formats import FOLDER, JSONL, Columns, reader
from vigorl_lib.data.rows import Row, Table, open_table
from vigorl_lib.domain.example import Example
from vigorl_lib.errors import DataError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore

IMAGE_THREADS = 8
_PROBLEMS_TOLD = 5

OnProgress = Callable[[int, int], None]
"""Gets the number of rows done, and of all."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of questions, or a folder (format `hf-folder`); image paths are relative to `images`.

    Without `images` they are relative to the folder of the file that names them.
    """

    path: Path
    format: str = JSONL
    images: Path | None = None
    columns: Columns = field(default_factory=Columns)

    def tables(self, split: str) -> list[Table]:
        """The files with the rows of `split`: the one file, or those of a folder that are of it."""
        paths = split_files(self.path, split) if self.format == FOLDER else [self.path]
        return [open_table(path) for path in paths]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import found: examples (without their images' bytes) and how many rows the format says to skip."""

    examples: list[Example]
    skipped: int = 0

    @property
    def images(self) -> int:
        """How many different images there are."""
        return len({image.sha256 for example in self.examples for image in example.images})


def import_folder(
    storage: Storage,
    jsonl: Path,
    image_root: Path,
    name: str,
    split: str,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> list[Example]:
    """`import_examples` of a JSONL file with our own records, whose images are below `image_root`."""
    return import_examples(storage, Source(jsonl, JSONL, image_root), name, split, on_progress=on_progress).examples


def import_examples(
    storage: Storage,
    source: Source,
    name: str,
    split: str,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> Imported:
    """Import `source` as `split` of the data set `name`.

    Raises DataError (IMPORT_FAILED) that tells the first problem in full and the places of the next ones, or what
    `write_dataset` raises.
    """
    store = ImageStore(storage, cache_bytes=0)
    examples: list[Example] = []
    problems: list[DataError] = []
    skipped = 0
    for result in read_source(source, split, store.put, on_progress=on_progress):
        match result:
            case Example():
                examples.append(result)
            case DataError():
                problems.append(result)
            case None:
                skipped += 1
    if problems:
        raise _failed(problems)
    if not examples:
        raise DataError(f"{source.path}: expected at least one line, found none", reason="IMPORT_FAILED")
    origin = {"importer": source.format, "file": source.path.name}
    write_dataset(storage, store, name, split, examples, created_from=origin)
    return Imported(examples, skipped)


def import_chains(
    storage: Storage,
    source: Source,
    name: str,
    split: str,
    *,
    on_progress: OnProgress = lambda done, total: None,
) -> tuple[int, Imported]:
    """Import chains as `split` of the data set `name`, and the questions that they answer as its split of that name.

    Returns the number of chains, and the examples. Raises as `import_examples`.
    """
    store = ImageStore(storage, cache_bytes=0)
    read: dict[str, ReadChain] = {}
    problems: list[DataError] = []
    root = source.images or source.path.parent
    for result in read_chain_file(source.path, Pictures(store.put), root, on_progress):
        if isinstance(result, DataError):
            problems.append(result)
        elif read.setdefault(result.chain.trajectory_id, result) is not result:
            problems.append(
                DataError(
                    f"{result.where}: the id {result.chain.trajectory_id!r} is used before",
                    reason="DUPLICATE_ID",
                    where=result.where,
                )
            )
    if problems:
        raise _failed(problems)
    if not read:
        raise DataError(f"{source.path}: expected at least one chain, found none", reason="IMPORT_FAILED")
    examples = list({one.example.example_id: one.example for one in read.values()}.values())
    origin = {"importer": source.format, "file": source.path.name}
    write_dataset(storage, store, name, split, examples, created_from=origin)
    chains = [one.chain for one in read.values()]
    write_dataset_chains(storage, name, split, chains, created_from=origin)
    return len(chains), Imported(examples)


def read_source(
    source: Source, split: str, put: Put, *, on_progress: OnProgress = lambda done, total: None
) -> Iterator[Example | DataError | None]:
    """Each row's example (its images without bytes) or what is wrong with it, in order; None for one that is skipped.

    A row whose id an earlier one has is wrong. Raises DataError where files or format cannot be read at all.
    """
    read = reader(source.format, source.columns, split)
    tables = source.tables(split)
    total = sum(table.count for table in tables)
    seen: dict[str, str] = {}
    rows = ((row, source.images or table.path.parent) for table in tables for row in table.rows)
    for done, (row, result) in enumerate(_finished(rows, read, Pictures(put)), start=1):
        if isinstance(result, Example):
            assert isinstance(row, Fields)
            first = seen.setdefault(result.example_id, row.where)
            if first != row.where:
                result = row.error(f"the id {result.example_id!r} is used at {first} already", "DUPLICATE_ID")
        yield result
        on_progress(done, total)


def _finished(
    rows: Iterator[tuple[Row, Path]], read: Read, pictures: Pictures
) -> Iterator[tuple[Row, Example | DataError | None]]:
    """Rows with what became of them, in order; a few are worked on at a time, because most of it is waiting."""
    waiting: deque[tuple[Row, Future[Example | DataError | None]]] = deque()
    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        for row, folder in rows:
            waiting.append((row, pool.submit(_finish, row, read, pictures, folder)))
            if len(waiting) > 2 * IMAGE_THREADS:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _finish(row: Row, read: Read, pictures: Pictures, folder: Path) -> Example | DataError | None:
    if isinstance(row, DataError):
        return row
    try:
        draft = read(row)
        if draft is None:
            return None
        return draft.example([pictures.image(row, picture, folder) for picture in draft.pictures])
    except DataError as error:
        return error


def _failed(problems: list[DataError]) -> DataError:
    first, *rest = problems
    places = [problem.metadata.get("where", "") for problem in rest[:_PROBLEMS_TOLD]]
    more = f" (and {len(rest)} more: {', '.join(places)}{' …' if len(rest) > len(places) else ''})" if rest else ""
    return DataError(first.message + more, reason="IMPORT_FAILED", problems=len(problems), first_reason=first.reason)
