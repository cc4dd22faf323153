from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.search.support import WrittenPolicy, answer, example, scenes, search_one, searching, teacher
from tests.search.test_journal import CONFIG, shape
from vigorl_lib.errors import CorruptObject, DataError
from vigorl_lib.search.archive import archive_run, end_shard, import_run, read_archive, read_run, refuse_imported
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.shards import Shard
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter

Records = list[dict[str, Any]]


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(FolderStorage(tmp_path), "run")


async def teachers_tree(storage: Storage) -> tuple[Tree, Records]:
    images = ImageStore(storage)
    scene = scenes(images, 1)[0]
    return await search_one(searching(teacher([scene], Path("x")), CONFIG, images=images), scene)


async def tree_of(name: str) -> tuple[Tree, Records]:
    policy = WrittenPolicy(lambda *_: answer("pink"))
    return await search_one(searching(policy, SearchConfig(simulations=2)), example(name))


def write(layout: RunLayout, shard: int, *records: dict[str, Any]) -> None:
    with SegmentWriter(layout.storage, layout.search(shard)) as writer:
        for record in records:
            writer.append(record)


def lines(layout: RunLayout) -> list[dict[str, Any]]:
    data = zstandard.ZstdDecompressor().stream_reader(layout.storage.read(layout.trees)).read()
    return [json.loads(line) for line in data.splitlines()]


async def test_a_tree_of_the_archive_equals_the_one_that_was_searched(layout: RunLayout) -> None:
    tree, records = await teachers_tree(layout.storage)
    write(layout, 0, *records)
    archive_run(layout)
    (read,) = read_archive(layout.storage, layout.trees)
    assert shape(read.root) == shape(tree.root)
    assert [node.index for node in read.nodes] == list(range(len(tree.nodes)))
    assert read.rollouts == tree.rollouts
    assert (read.end, read.simulations, read.cost, read.policy) == (tree.end, 4, tree.cost, "written")
    (full,) = read_archive(layout.storage, layout.trees, ImageStore(layout.storage))
    assert full.root.prefix.segments[0].images[0].data


async def test_shards_are_merged_with_one_tree_an_example_and_the_others_counted(
    layout: RunLayout, caplog: pytest.LogCaptureFixture
) -> None:
    (_, a), (_, b), (_, cc) = await tree_of("a"), await tree_of("b"), await tree_of("cc")
    write(layout, 0, *a, *cc[:-1])
    write(layout, 1, *b, *a, *cc)
    counts = archive_run(layout)
    assert (counts.trees, counts.duplicates, counts.unfinished) == (3, 2, 0), "of cc the finished tree counts"
    assert [tree.example_id for tree in read_run(layout)] == ["a", "b", "cc"]
    assert all(tree.end for tree in read_run(layout))
    before = layout.storage.read(layout.trees)
    archive_run(layout)
    assert layout.storage.read(layout.trees) == before
    layout.storage.delete(layout.trees)
    with caplog.at_level(logging.WARNING):
        assert [tree.example_id for tree in read_run(layout)] == ["a", "b", "cc"]
    assert "2 trees of examples that had one already" in caplog.text


async def test_an_unfinished_tree_stays_out_of_the_archive(layout: RunLayout) -> None:
    (_, a), (_, b) = await tree_of("a"), await tree_of("b")
    write(layout, 0, *a, *b[:-1])
    counts = archive_run(layout)
    assert (counts.trees, counts.unfinished) == (1, 1)
    assert [line["kind"] for line in lines(layout)] == ["archive", "tree", "end"]


async def test_the_archive_is_read_until_a_segment_comes_that_it_does_not_know(layout: RunLayout) -> None:
    (_, a), (_, b) = await tree_of("a"), await tree_of("b")
    write(layout, 0, *a)
    archive_run(layout)
    journal = layout.storage.list(f"{layout.search(0)}/")
    for key in journal:
        # What is read from here on is the archive.
        layout.storage.delete(key)
    assert [tree.example_id for tree in read_run(layout)] == ["a"]
    write(layout, 1, *b)
    assert [tree.example_id for tree in read_run(layout)] == ["b"]


async def test_a_segment_that_is_still_open_makes_the_archive_stale(layout: RunLayout) -> None:
    (_, a), (_, b) = await tree_of("a"), await tree_of("b")
    write(layout, 0, *a)
    archive_run(layout)
    writer = SegmentWriter(layout.storage, layout.search(0))
    for record in b:
        writer.append(record)
    assert [tree.example_id for tree in read_run(layout)] == ["a", "b"]
    writer.close()


async def test_the_last_shard_to_end_writes_the_archive(layout: RunLayout) -> None:
    (_, a), (_, b) = await tree_of("a"), await tree_of("b")
    write(layout, 1, *b)
    assert end_shard(layout, Shard(1, 3)) is None
    assert end_shard(layout, Shard(2, 3)) is None, "a shard without examples ends, too"
    assert not layout.storage.exists(layout.trees)
    write(layout, 0, *a)
    counts = end_shard(layout, Shard(0, 3))
    assert counts is not None
    assert counts.trees == 2
    assert end_shard(layout, Shard(0, 3)) is None, "it is up to date"


async def test_an_archive_that_is_cut_off_or_too_new_says_so(layout: RunLayout) -> None:
    (_, a), (_, b) = await tree_of("a"), await tree_of("b")
    write(layout, 0, *a, *b)
    archive_run(layout)
    whole = lines(layout)

    def put(changed: list[dict[str, Any]]) -> None:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in changed)
        layout.storage.write(layout.trees, zstandard.ZstdCompressor().compress(data))

    put(whole[:-1])
    with pytest.raises(CorruptObject, match="cut off after 2 trees"):
        list(read_archive(layout.storage, layout.trees))
    put([whole[0], whole[1], whole[3]])
    with pytest.raises(CorruptObject, match="expected 2 trees, found 1"):
        list(read_archive(layout.storage, layout.trees))
    put([whole[0] | {"version": whole[0]["version"] + 1}])
    with pytest.raises(DataError) as caught:
        list(read_archive(layout.storage, layout.trees))
    assert caught.value.reason == "RECORD_TOO_NEW"
    layout.storage.write(layout.trees, b"\x28\xb5\x2f\xfd broken")
    with pytest.raises(CorruptObject):
        list(read_archive(layout.storage, layout.trees))


async def test_an_archive_lies_in_a_bucket_as_in_a_folder(s3_storage: Storage) -> None:
    layout = RunLayout(s3_storage, "run")
    tree, records = await tree_of("a")
    write(layout, 0, *records)
    assert archive_run(layout).trees == 1
    (read,) = read_run(layout)
    assert shape(read.root) == shape(tree.root)


async def test_imported_trees_and_a_search_do_not_share_a_run(layout: RunLayout) -> None:
    tree, records = await tree_of("a")
    refuse_imported(layout)
    assert import_run(layout, [tree]).trees == 1
    with pytest.raises(DataError, match="search under another --run-id"):
        refuse_imported(layout)
    other = RunLayout(layout.storage, "other")
    write(other, 0, *records)
    with pytest.raises(DataError, match="import under another --run-id"):
        import_run(other, [tree])


def test_a_run_without_a_search_has_nothing_to_merge(layout: RunLayout) -> None:
    with pytest.raises(DataError) as caught:
        archive_run(layout)
    assert caught.value.reason == "TREES_MISSING"
