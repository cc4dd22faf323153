"""The trees of a run in one file, `trees.jsonl.zst`: what the journals of all its shards came to.

It is for readers: nodes with their statistics, a line a tree, an example once. A search goes on from its journal
and never reads this. The first line names the journal's segments that the file was made from; since segments never
change, a reader knows whether it is up to date, and takes the journals where it is not. The last line holds the
counts; a file without it is cut off.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import zstandard

from vigorl_lib.data.fields import Fields, parse_line
from vigorl_lib.data.records import check_version
from vigorl_lib.data.trajectory_records import ImageTable, read_images, write_images
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.search.journal import (
    Paths,
    Record,
    read_cost,
    read_prefix,
    read_rollouts,
    read_trees,
    write_cost,
    write_prefix,
    write_rollouts,
)
from vigorl_lib.search.run_claims import journals
from vigorl_lib.search.shards import Shard
from vigorl_lib.search.tree import Node, Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import CLOSED, OPEN, json_line

VERSION = 3
ENDED = "ended.json"
"""Under a shard's prefix: its search has come to its end at least once."""

IMPORTED = "imported.json"
"""Beside the archive of a run whose trees came from elsewhere."""

_LEVEL = 9

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What was found: trees kept, later trees of an example that had one already, and trees without an end."""

    trees: int = 0
    duplicates: int = 0
    unfinished: int = 0


def read_run(layout: RunLayout, images: ImageStore | None = None) -> Iterator[Tree]:
    """All trees of a run, one an example, the finished ones first; from the archive if it is up to date.

    Trees of the archive have an end and cannot be searched on. Duplicates are told in a warning. Raises DataError
    (RECORD_INVALID, RECORD_TOO_NEW), CorruptObject.
    """
    if layout.storage.exists(layout.trees):
        with _opened(layout.storage, layout.trees) as (header, lines):
            if _up_to_date(layout, header):
                yield from _trees(layout.trees, lines, images)
                return
    counts = Counts()
    yield from _once(_journalled(layout, images), counts)
    if counts.duplicates:
        logger.warning("%s: %d trees of examples that had one already were skipped", layout.searches, counts.duplicates)


def read_archive(storage: Storage, key: str, images: ImageStore | None = None) -> Iterator[Tree]:
    """The trees of one archive. Raises ObjectNotFound, DataError (RECORD_INVALID, RECORD_TOO_NEW), CorruptObject."""
    with _opened(storage, key) as (_, lines):
        yield from _trees(key, lines, images)


def archive_run(layout: RunLayout) -> Counts:
    """Write the archive from the journals of all shards: finished trees, one an example, the first that is read.

    The same again writes the same. Raises DataError (TREES_MISSING) where no shard has a journal.
    """
    # Listed before they are read: a segment that comes in between makes the archive stale, never the other way.
    segments = [key for key in _segments(layout) if key.endswith(CLOSED)]
    if not segments:
        raise DataError(
            f"no search under {layout.searches} in {layout.storage.uri}; run `vigorl search` first or name another run",
            reason="TREES_MISSING",
        )
    return write_archive(layout.storage, layout.trees, _journalled(layout, None), segments)


def write_archive(storage: Storage, key: str, trees: Iterable[Tree], segments: Sequence[str] = ()) -> Counts:
    """Write finished trees, the first of each example, as one object; one tree at a time is in memory."""
    counts = Counts()
    folder, _, name = key.rpartition("/")
    with TemporaryDirectory() as place:
        with (
            (Path(place) / name).open("wb") as raw,
            zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(raw) as out,
        ):
            out.write(_line("archive", {"segments": list(segments)}))
            for tree in _once(trees, counts):
                if tree.end:
                    out.write(_line("tree", tree_to_record(tree)))
            out.write(_line("end", asdict(counts)))
        storage.upload_folder(Path(place), folder)
    return counts


def import_run(layout: RunLayout, trees: Iterable[Tree]) -> Counts:
    """Write trees from elsewhere as the archive of a run that has no search.

    Raises DataError (SEARCH_EXISTS) where it has one, which the archive would hide.
    """
    if layout.storage.list(f"{layout.searches}/"):
        raise DataError(
            f"{layout.searches} in {layout.storage.uri} holds a search; import under another --run-id",
            reason="SEARCH_EXISTS",
        )
    counts = write_archive(layout.storage, layout.trees, trees)
    layout.storage.write(f"{layout.searches}/{IMPORTED}", json.dumps(asdict(counts)).encode())
    return counts


def refuse_imported(layout: RunLayout) -> None:
    """Raise DataError (SEARCH_EXISTS) for a run of imported trees: a search would write its archive over theirs."""
    if layout.storage.exists(f"{layout.searches}/{IMPORTED}"):
        raise DataError(
            f"{layout.searches} in {layout.storage.uri} holds imported trees; search under another --run-id",
            reason="SEARCH_EXISTS",
        )


def end_shard(layout: RunLayout, shard: Shard) -> Counts | None:
    """Tell that a shard's search ended; the last of a run to do so writes the archive, unless it is up to date."""
    storage = layout.storage
    storage.write(f"{layout.search(shard.index)}/{ENDED}", json.dumps({"shards": shard.count}).encode())
    if not all(storage.exists(f"{layout.search(index)}/{ENDED}") for index in range(shard.count)):
        return None
    if storage.exists(layout.trees):
        with _opened(storage, layout.trees) as (header, _):
            if _up_to_date(layout, header):
                return None
    # Without examples a shard has no journal, and so may all of them.
    return archive_run(layout) if _segments(layout) else None


def tree_to_record(tree: Tree) -> Record:
    """A tree as one object. Nodes stand in the order in which they were made, so parents before children."""
    table: ImageTable = {}
    nodes = [_write_node(node, table) for node in tree.nodes]
    return {
        "tree": tree.tree_id,
        "example_id": tree.example_id,
        "policy": tree.policy,
        "end": tree.end,
        "error": tree.error,
        "simulations": tree.simulations,
        "cost": write_cost(tree.cost),
        "nodes": nodes,
        "rollouts": write_rollouts(tree.rollouts, Paths(tree)),
        "images": write_images(table),
    }


def tree_from_record(fields: Fields, images: ImageStore | None = None) -> Tree:
    """Raises DataError (RECORD_INVALID), ObjectNotFound for an image that the store does not have."""
    table = read_images(fields, images)
    tree = Tree(
        fields.text("tree"),
        fields.text("example_id"),
        fields.text("policy"),
        simulations=fields.integer("simulations"),
        cost=read_cost(fields),
        end=fields.text("end"),
        error=fields.text("error", ""),
    )
    for node in fields.objects("nodes"):
        _read_node(tree, node, table)
    tree.rollouts = read_rollouts(fields, Paths(tree), images)
    return tree


def _write_node(node: Node, table: ImageTable) -> Record:
    record = write_prefix(node.prefix, table)
    if node.parent is not None:
        record["parent"] = node.parent.index
    record |= {"visit_count": node.visit_count, "value": node.value}
    return record | ({"exhausted": True, "error": node.error} if node.exhausted else {})


def _read_node(tree: Tree, fields: Fields, table: ImageTable) -> None:
    index, parent = len(tree.nodes), None
    if index:
        above = fields.integer("parent")
        if not 0 <= above < index:
            raise fields.error(f"parent: expected one of the {index} nodes before, found {above}")
        parent = tree.nodes[above]
    node = Node(
        index,
        read_prefix(fields, parent.prefix if parent else None, table),
        parent,
        visit_count=fields.integer("visit_count"),
        value=fields.number("value"),
        exhausted=fields.flag("exhausted", False),
        error=fields.text("error", ""),
    )
    tree.nodes.append(node)
    if parent is not None:
        parent.children.append(node)


def _once(trees: Iterable[Tree], counts: Counts) -> Iterator[Tree]:
    """The first tree of each example."""
    seen: set[str] = set()
    for tree in trees:
        if tree.example_id in seen:
            counts.duplicates += 1
            continue
        seen.add(tree.example_id)
        counts.trees += bool(tree.end)
        counts.unfinished += not tree.end
        yield tree


def _journalled(layout: RunLayout, images: ImageStore | None) -> Iterator[Tree]:
    """Finished trees of all shards, then the unfinished ones: another shard may have finished the same example."""
    unfinished = []
    for prefix in journals(layout):
        for tree in read_trees(layout.storage, prefix, images):
            if tree.end:
                yield tree
            else:
                unfinished.append(tree)
    yield from unfinished


def _segments(layout: RunLayout) -> list[str]:
    keys = layout.storage.list(f"{layout.searches}/")
    return [key for key in keys if key.endswith((CLOSED, OPEN)) and key.rpartition("/")[0] != layout.searches]


def _up_to_date(layout: RunLayout, header: Fields) -> bool:
    """An open segment still grows, so no archive names one."""
    return set(_segments(layout)) <= set(header.items("segments"))


def _line(kind: str, record: Record) -> bytes:
    return json_line({"version": VERSION, "kind": kind, **record}, "trees").encode() + b"\n"


@contextmanager
def _opened(storage: Storage, key: str) -> Iterator[tuple[Fields, Iterator[Fields]]]:
    """The first line, and the lines after it as they are asked for."""
    with TemporaryDirectory() as folder:
        path = storage.local_path(key)
        if path is None:
            path = Path(folder) / "trees"
            storage.download(key, path)
        with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as plain:
            lines = _lines(key, plain)
            header = next(lines, None)
            if header is None or header.text("kind") != "archive":
                raise _corrupt(key, "expected a first line of the kind archive")
            yield header, lines


def _lines(key: str, plain: Any) -> Iterator[Fields]:
    try:
        for number, line in enumerate(io.TextIOWrapper(plain, encoding="utf-8", newline="\n"), start=1):
            fields = parse_line(line, f"{key}:{number}")
            check_version(fields, VERSION)
            yield fields
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise _corrupt(key, str(error)) from error


def _trees(key: str, lines: Iterator[Fields], images: ImageStore | None) -> Iterator[Tree]:
    found = 0
    for fields in lines:
        if fields.text("kind") == "end":
            if fields.integer("trees") != found:
                raise _corrupt(key, f"expected {fields.integer('trees')} trees, found {found}")
            return
        found += 1
        yield tree_from_record(fields, images)
    raise _corrupt(key, f"it is cut off after {found} trees")


def _corrupt(key: str, problem: str) -> CorruptObject:
    return CorruptObject(
        f"{key}: {problem}; write it again with `vigorl trees merge`", reason="OBJECT_CORRUPT", key=key
    )
