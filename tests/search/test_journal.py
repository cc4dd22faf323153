from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.search.support import TASK, WrittenPolicy, answer, said, scenes, search_one, searching, teacher, zoom
from vigorl_lib.data.trajectory_records import trajectory_to_record
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import DataError, PolicyError
from vigorl_lib.policy.base import Generation
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import Paths, read_trees, write_rollouts
from vigorl_lib.search.tree import Node, Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter

CONFIG = SearchConfig(simulations=4, children=3, rollouts_per_child=2, dedup_radius_px=3)


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path)


@pytest.fixture
def scene(storage: FolderStorage) -> Example:
    return scenes(ImageStore(storage), 1)[0]


async def searched(storage: FolderStorage, scene: Example, seed: int = 0) -> tuple[Tree, list[dict[str, Any]]]:
    search = searching(teacher([scene], Path("x")), CONFIG, images=ImageStore(storage))
    search.seed = seed
    return await search_one(search, scene)


def write(storage: Storage, *records: dict[str, Any]) -> None:
    with SegmentWriter(storage, "search/0") as writer:
        for record in records:
            writer.append(record)


def shape(node: Node) -> tuple[Any, ...]:
    prefix = node.prefix
    what = (prefix.new_segments, prefix.record, prefix.state, prefix.seed_path, prefix.stop, prefix.depth)
    return (*what, node.visit_count, node.value, node.exhausted, node.error, [shape(child) for child in node.children])


async def test_a_tree_that_is_read_equals_the_one_that_was_searched(storage: FolderStorage, scene: Example) -> None:
    tree, records = await searched(storage, scene)
    write(storage, *records)
    (read,) = read_trees(storage, "search/0")
    assert shape(read.root) == shape(tree.root)
    assert read.rollouts == tree.rollouts
    assert (read.end, read.simulations, read.policy, read.head) == ("budget", 4, "written", tree.head)


def recomputed(records: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Visits and mean value of every node, straight from the records."""
    parents: list[int | None] = [None]
    values: list[list[float]] = [[]]
    terminal = [False]

    def count(node: int | None, value: float) -> None:
        while node is not None:
            values[node].append(value)
            node = parents[node]

    for record in records:
        if record["kind"] != "simulation":
            continue
        leaf = record["leaf"]
        for child in record["children"]:
            parents.append(leaf)
            values.append([])
            terminal.append("stop" in child)
        if terminal[leaf]:
            count(leaf, fmean(values[leaf]))
        for rollout in record["rollouts"]:
            if not rollout["trajectory"]["error"]:
                count(rollout["node"], rollout["value"])
    return [(len(found), fmean(found) if found else 0.0) for found in values]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    simulations=st.integers(1, 7),
    children=st.integers(1, 4),
    rollouts=st.integers(1, 3),
    in_flight=st.integers(1, 4),
    depth=st.integers(1, 4),
)
def test_a_tree_is_what_its_records_say(
    seed: int, simulations: int, children: int, rollouts: int, in_flight: int, depth: int
) -> None:
    """Whatever the policy says, whichever simulation ends first: nothing of those in flight is left."""
    rng = random.Random(seed)

    def say(prompt: Sequence[Segment], index: int) -> str:
        if rng.random() < 0.1:
            raise PolicyError("too long", reason="CONTEXT_OVERFLOW")
        if rng.random() < 0.6:
            return zoom(rng.randrange(0, 112), rng.randrange(0, 112))
        return answer(rng.choice(["pink", "cyan"]))

    config = SearchConfig(
        simulations=simulations,
        children=children,
        rollouts_per_child=rollouts,
        simulations_in_flight=in_flight,
        max_depth=depth,
        dedup_radius_px=3,
    )
    policy = WrittenPolicy(say, lambda: asyncio.sleep(rng.choice([0, 0, 0.001])))

    async def searched_and_read() -> None:
        tree, records = await search_one(searching(policy, config))
        assume(tree.nodes)
        with TemporaryDirectory() as folder:
            storage = FolderStorage(Path(folder))
            write(storage, *records)
            (read,) = read_trees(storage, "search/0")
        assert shape(read.root) == shape(tree.root)
        assert (read.rollouts, read.end, read.cost, read.simulations) == (
            tree.rollouts,
            tree.end,
            tree.cost,
            tree.simulations,
        )
        naive = recomputed(records)
        assert [node.visit_count for node in tree.nodes] == [visits for visits, _ in naive]
        assert [node.value for node in tree.nodes] == pytest.approx([value for _, value in naive])
        assert all(node.virtual_visits == 0 and not node.expanding for node in tree.nodes)

    asyncio.run(searched_and_read())


async def test_pictures_come_with_their_bytes_if_they_are_asked_for(storage: FolderStorage, scene: Example) -> None:
    _, records = await searched(storage, scene)
    write(storage, *records)

    def pictures(tree: Tree) -> list[Image]:
        return [image for node in tree.nodes for segment in node.prefix.new_segments for image in segment.images]

    (bare,), (full,) = read_trees(storage, "search/0"), read_trees(storage, "search/0", ImageStore(storage))
    assert len(pictures(full)) > 1
    assert all(image.data is None for image in pictures(bare))
    assert all(image.data for image in pictures(full))


async def test_of_two_writers_of_one_tree_the_first_counts_whole(
    storage: FolderStorage, scene: Example, caplog: pytest.LogCaptureFixture
) -> None:
    first, one = await searched(storage, scene, seed=1)
    _, other = await searched(storage, scene, seed=2)
    mixed = [record for pair in zip(one, other, strict=True) for record in pair]
    write(storage, *mixed, *one)
    with caplog.at_level(logging.WARNING):
        (read,) = read_trees(storage, "search/0")
    assert shape(read.root) == shape(first.root)
    assert f"{len(other) + len(one)} records" in caplog.text


async def test_finished_trees_come_first_and_only_those_that_are_named(storage: FolderStorage, scene: Example) -> None:
    _, done = await searched(storage, scene)
    policy = WrittenPolicy(lambda *_: answer("pink"))
    _, begun = await search_one(searching(policy, SearchConfig(simulations=2)))
    write(storage, *begun[:-1], *done)
    assert [(tree.example_id, tree.end) for tree in read_trees(storage, "search/0")] == [
        ("s000", "budget"),
        ("one", ""),
    ]
    assert [tree.example_id for tree in read_trees(storage, "search/0", only={"t/one"})] == ["one"]


async def test_a_record_that_cannot_be_says_what_is_wrong(storage: FolderStorage, scene: Example) -> None:
    _, records = await searched(storage, scene)
    write(storage, records[0], records[1] | {"leaf": 77})
    with pytest.raises(DataError, match="leaf: expected one of 1 nodes, found 77"):
        list(read_trees(storage, "search/0"))


async def test_a_journal_of_a_later_release_is_refused(storage: FolderStorage, scene: Example) -> None:
    _, records = await searched(storage, scene)
    write(storage, records[0] | {"version": records[0]["version"] + 1})
    with pytest.raises(DataError) as caught:
        list(read_trees(storage, "search/0"))
    assert caught.value.reason == "RECORD_TOO_NEW"


class TokenExact(WrittenPolicy):
    """Renders prompts and tells tokens, made up from the texts."""

    async def generate(self, prompt: Sequence[Segment], **rest: Any) -> Generation:
        generation = await super().generate(prompt, **rest)
        rendered = tuple(one if one.token_ids else one.rendered(tuple(one.text.encode()), ()) for one in prompt)
        said = tuple(
            replace(one, token_ids=(ids := tuple(one.text.encode())), logprobs=(-0.5,) * len(ids))
            for one in generation.completions
        )
        return replace(generation, prompt=rendered, completions=said)


def wander(prompt: Sequence[Segment], index: int) -> str:
    depth = len(said(prompt))
    return zoom(10 + 30 * index, 10 + 30 * depth) if depth < 2 else answer("pink" if index else "cyan")


async def wandered(policy: WrittenPolicy) -> tuple[Tree, list[dict[str, Any]]]:
    task = TASK.model_copy(update={"max_tokens": 100_000, "max_turn_tokens": 1_000})
    return await search_one(searching(policy, SearchConfig(simulations=6, dedup_radius_px=3), task=task))


@pytest.mark.parametrize("policy", [WrittenPolicy(wander), TokenExact(wander)], ids=["texts", "tokens"])
async def test_a_rollout_leaves_out_what_its_node_says(storage: FolderStorage, policy: WrittenPolicy) -> None:
    tree, records = await wandered(policy)
    rollouts = [rollout for record in records if record["kind"] == "simulation" for rollout in record["rollouts"]]
    depths = [tree.nodes[rollout["node"]].prefix.depth for rollout in rollouts]
    assert {1, 2, 3} <= set(depths)
    assert [rollout["opening_turns"] for rollout in rollouts] == depths
    write(storage, *records)
    (read,) = read_trees(storage, "search/0")
    assert read.rollouts == tree.rollouts
    assert all(len(rollout.trajectory.turns) >= depth for rollout, depth in zip(read.rollouts, depths, strict=True))


@pytest.mark.parametrize("leave_out", ["the prompt", "nothing"])
async def test_journals_of_earlier_versions_are_read(storage: FolderStorage, leave_out: str) -> None:
    tree, records = await wandered(WrittenPolicy(wander))
    opening = len(tree.root.prefix.segments) if leave_out == "the prompt" else 0
    whole = iter(tree.rollouts)
    for record in records:
        record["version"] = 2 if opening else 1
        for rollout in record.get("rollouts", ()):
            del rollout["opening_turns"]
            rollout["opening"] = opening
            rollout["trajectory"] = trajectory_to_record(next(whole).trajectory, leave_out=(opening, 0))
    write(storage, *records)
    (read,) = read_trees(storage, "search/0")
    assert shape(read.root) == shape(tree.root)
    assert read.rollouts == tree.rollouts


async def test_a_conversation_that_begins_in_another_way_than_its_node_is_written_whole(storage: FolderStorage) -> None:
    tree, records = await wandered(WrittenPolicy(wander))
    other = tree.rollouts[0]
    other.trajectory = replace(other.trajectory, segments=other.trajectory.segments[1:])
    (written,) = write_rollouts([other], Paths(tree))
    assert (written["opening"], written["opening_turns"]) == (0, 0)
    records[1]["rollouts"][0] = written
    write(storage, *records)
    (read,) = read_trees(storage, "search/0")
    assert read.rollouts == tree.rollouts


async def test_a_damaged_opening_is_refused(storage: FolderStorage) -> None:
    _, records = await wandered(WrittenPolicy(wander))
    records[1]["rollouts"][0]["opening_turns"] += 1
    write(storage, *records)
    with pytest.raises(DataError, match="opening: expected none or the"):
        list(read_trees(storage, "search/0"))
