"""Several simulations of one tree in flight: virtual loss, the journal, deadlines and early ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.search.support import WrittenPolicy, answer, example, recorder, said, search_one, searching, zoom
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import Entry, read_trees
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.segments import SegmentWriter


def wander(prompt: Sequence[Segment], index: int) -> str:
    """Three places a turn, answers on the third turn, right on one way in three."""
    depth = len(said(prompt))
    if depth < 2:
        return zoom(10 + 40 * index, 10 + 40 * depth)
    return answer("pink" if "(10, 10)" in said(prompt)[0] else "cyan")


def restless(seed: int) -> WrittenPolicy:
    """Answers after a moment that no one can foretell."""
    rng = random.Random(seed)

    async def before() -> None:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)

    return WrittenPolicy(wander, before)


def recount(tree: Tree, records: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Visits and mean values from the records alone, by going through them in the plainest way."""
    parents: list[int | None] = [None]
    values: list[list[float]] = [[]]
    for record in (r for r in records if r["kind"] == "simulation"):
        leaf = record["leaf"]
        for _ in record["children"]:
            parents.append(leaf)
            values.append([])
        through = [(r["node"], r["value"]) for r in record["rollouts"] if not r["trajectory"]["error"]]
        if tree.nodes[leaf].terminal:
            through = [(leaf, values[leaf][0])]
        for node, value in through:
            at: int | None = node
            while at is not None:
                values[at].append(value)
                at = parents[at]
    return [(len(one), fmean(one) if one else 0.0) for one in values]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    in_flight=st.integers(1, 6),
    children=st.integers(1, 3),
    selection=st.sampled_from(["ucb", "puct_uniform"]),
)
def test_virtual_loss_leaves_no_trace(seed: int, in_flight: int, children: int, selection: str) -> None:
    config = SearchConfig(
        simulations=7,
        children=children,
        rollouts_per_child=2,
        dedup_radius_px=3,
        simulations_in_flight=in_flight,
        selection=selection,  # type: ignore[arg-type]
    )
    tree, records = asyncio.run(search_one(searching(restless(seed), config)))
    assert tree.simulations == sum(record["kind"] == "simulation" for record in records) <= 7
    assert [(node.visit_count, pytest.approx(node.value)) for node in tree.nodes] == recount(tree, records)
    assert not any(node.virtual_visits or node.expanding for node in tree.nodes)
    assert all(
        len(rollouts) == len(set(rollouts)) for rollouts in [[r.trajectory.trajectory_id for r in tree.rollouts]]
    )


async def test_the_journal_of_a_parallel_tree_rebuilds_it(tmp_path: Path) -> None:
    config = SearchConfig(simulations=9, simulations_in_flight=4, dedup_radius_px=3)
    tree, records = await search_one(searching(restless(1), config))
    storage = FolderStorage(tmp_path)
    with SegmentWriter(storage, "search/0") as writer:
        for record in records:
            writer.append(record)
    (read,) = read_trees(storage, "search/0")
    assert [(n.visit_count, n.value, n.exhausted) for n in read.nodes] == [
        (n.visit_count, n.value, n.exhausted) for n in tree.nodes
    ]
    assert read.rollouts == tree.rollouts
    assert (read.head, read.cost, read.end) == (tree.head, tree.cost, "budget")


async def test_simulations_in_flight_expand_different_nodes_at_the_same_time() -> None:
    asked: set[asyncio.Task[Any] | None] = set()
    most = 0

    async def before() -> None:
        nonlocal most
        if len(said(policy.requests[-1][0])) == 1 and policy.requests[-1][1] == 3:
            asked.add(asyncio.current_task())
            most = max(most, len(asked))
            await asyncio.sleep(0.01)
            asked.discard(asyncio.current_task())

    policy = WrittenPolicy(wander, before)
    config = SearchConfig(simulations=4, simulations_in_flight=3, rollouts_per_child=1, dedup_radius_px=3)
    tree, _ = await search_one(searching(policy, config))
    assert most == 3, "all three children of the root at once"
    assert {len(child.children) for child in tree.root.children} == {3}


async def test_a_deadline_cancels_the_work_and_keeps_the_partial_tree() -> None:
    cancelled = 0

    async def before() -> None:
        nonlocal cancelled
        if len(policy.requests) > 13:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled += 1
                raise

    policy = WrittenPolicy(wander, before)
    config = SearchConfig(simulations=9, simulations_in_flight=2, deadline_s=0.3, dedup_radius_px=3)
    tree, records = await search_one(searching(policy, config))
    assert (tree.end, records[-1]["reason"], tree.error) == ("deadline", "deadline", "")
    assert tree.simulations == 1
    assert len(tree.rollouts) == 6
    assert cancelled > 0
    assert not any(node.virtual_visits for node in tree.nodes)
    assert [record["previous"] for record in records[1:]] == [record["id"] for record in records[:-1]]


async def test_a_deadline_during_a_commit_leaves_a_journal_that_can_be_read() -> None:
    records, journal = recorder()

    async def slow(entry: Entry) -> None:
        await journal(entry)
        if records[-1]["kind"] == "simulation":
            await asyncio.sleep(0.9)

    search = searching(WrittenPolicy(wander), SearchConfig(simulations=9, deadline_s=0.6, dedup_radius_px=3))
    tree = await search.search(example(), Tree("t", "one", "written"), slow)
    assert (tree.end, tree.simulations) == ("deadline", 1)
    assert records[-1]["previous"] == records[-2]["id"]


async def test_a_hopeless_tree_is_given_up_and_a_hopeful_one_is_not() -> None:
    def wrong(prompt: Sequence[Segment], index: int) -> str:
        return zoom(10 + 40 * index, 10 + 40 * len(said(prompt))) if len(said(prompt)) < 3 else answer("cyan")

    config = SearchConfig(simulations=9, stop_when_hopeless=2, dedup_radius_px=3)
    tree, _ = await search_one(searching(WrittenPolicy(wrong), config))
    assert (tree.end, tree.simulations) == ("hopeless", 2)
    tree, _ = await search_one(searching(WrittenPolicy(wander), config))
    assert (tree.end, tree.simulations) == ("budget", 9)


async def test_what_is_in_flight_when_a_tree_is_solved_is_not_waited_for() -> None:
    async def before() -> None:
        if "(10, 10)" not in "".join(said(policy.requests[-1][0])) and len(said(policy.requests[-1][0])) == 2:
            await asyncio.sleep(60)

    policy = WrittenPolicy(lambda p, i: wander(p, i) if len(said(p)) != 1 else zoom(50, 90 + 40 * i), before)
    config = SearchConfig(
        simulations=4,
        children=1,
        rollouts_per_child=1,
        simulations_in_flight=2,
        stop_when_solved=True,
        dedup_radius_px=3,
    )
    tree, _ = await asyncio.wait_for(search_one(searching(policy, config)), 5)
    assert tree.end == "solved"


async def test_an_outage_in_one_simulation_ends_the_others_and_the_tree_goes_on_later() -> None:
    away = True

    def flaky(prompt: Sequence[Segment], index: int) -> str:
        if away and len(said(prompt)) == 1 and policy.requests[-1][1] == 3:
            raise PolicyError("unreachable", reason="UNAVAILABLE", infrastructure=True)
        return wander(prompt, index)

    policy = WrittenPolicy(flaky)
    search = searching(policy, SearchConfig(simulations=5, simulations_in_flight=3, dedup_radius_px=3))
    records, journal = recorder()
    tree = await search.search(example(), Tree("t", "one", "written"), journal)
    assert (tree.end, tree.simulations) == ("", 1)
    away = False
    tree = await search.search(example(), tree, journal)
    assert (tree.end, tree.simulations, tree.error) == ("budget", 5, "")
    assert [record["kind"] for record in records] == ["root", *["simulation"] * 5, "end"]
