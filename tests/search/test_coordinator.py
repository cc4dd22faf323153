from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bench_search import Talker
from tests.bench.support import served
from tests.search.support import TASK, WrittenPolicy, answer, example, said, scenes, searching, teacher, zoom
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError, StorageError
from vigorl_lib.policy.base import Generation
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import BatchedJournal, SearchProgress, search_dataset
from vigorl_lib.search.journal import Entry, read_trees
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter, read_segments

CONFIG = SearchConfig(simulations=3, children=2, rollouts_per_child=2, dedup_radius_px=3, trees_in_flight=3)
JOURNAL = "runs/r/search/00000"


def written(prompt: Sequence[Segment], index: int) -> str:
    if not said(prompt):
        return zoom(20 + 40 * index, 30)
    return answer("pink" if "(20, 30)" in said(prompt)[0] else "cyan")


async def run(
    examples: Sequence[Example], search: TreeSearch, storage: Storage
) -> tuple[SearchProgress, list[SearchProgress]]:
    seen: list[SearchProgress] = []
    search.simulator.images = ImageStore(storage)
    for one in examples:
        search.simulator.images.put(one.images[0].data or b"")
    result = await search_dataset(
        examples, search, policy="written", storage=storage, prefix=JOURNAL, on_progress=seen.append
    )
    return result, seen


def by_tree(storage: Storage) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {}
    for record in read_segments(storage, JOURNAL):
        records.setdefault(record["tree"], []).append(record)
    return records


async def test_every_example_is_searched_and_told_of(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    examples = [example("a"), example("b"), example("c", truth="none"), example("d")]
    result, seen = await run(examples, searching(WrittenPolicy(written), CONFIG), storage)
    assert [p.done for p in seen] == [1, 2, 3, 4]
    assert (result.done, result.total, result.solved, result.failed, result.resumed) == (4, 4, 3, 0, 0)
    assert {tree.example_id for tree in read_trees(storage, JOURNAL) if tree.end} == {"a", "b", "c", "d"}


async def test_trees_are_searched_side_by_side_but_no_more_than_allowed(tmp_path: Path) -> None:
    busy: set[asyncio.Task[Any] | None] = set()
    most = 0

    async def before() -> None:
        nonlocal most
        busy.add(asyncio.current_task())
        most = max(most, len(busy))
        await asyncio.sleep(0.005)
        busy.discard(asyncio.current_task())

    config = CONFIG.model_copy(update={"children": 1, "rollouts_per_child": 1})
    policy = WrittenPolicy(written, before)
    await run([example(f"e{k}") for k in range(9)], searching(policy, config), FolderStorage(tmp_path))
    assert most == 3


async def test_a_tree_that_fails_harms_no_other(tmp_path: Path) -> None:
    def picky(prompt: Sequence[Segment], index: int) -> str:
        if "What is it, b?" in prompt[0].text:
            raise PolicyError("never heard of it", reason="SCENE_UNKNOWN")
        return written(prompt, index)

    storage = FolderStorage(tmp_path)
    examples = [example("a"), example("b"), example("c")]
    result, _ = await run(examples, searching(WrittenPolicy(picky), CONFIG), storage)
    assert (result.done, result.failed, result.solved) == (3, 1, 2)
    (failed,) = [tree for tree in read_trees(storage, JOURNAL) if tree.error]
    assert (failed.example_id, failed.error) == ("b", "SCENE_UNKNOWN: never heard of it")
    again, _ = await run(examples, searching(WrittenPolicy(written), CONFIG), storage)
    assert (again.resumed, again.failed) == (3, 1), "it would fail in the same way"


async def test_failures_are_counted_by_their_class(tmp_path: Path) -> None:
    def picky(prompt: Sequence[Segment], index: int) -> str:
        if "What is it, b?" in prompt[0].text:
            raise PolicyError("never heard of it", reason="SCENE_UNKNOWN")
        if "What is it, c?" in prompt[0].text and said(prompt):
            raise PolicyError("no room", reason="CONTEXT_OVERFLOW")
        return written(prompt, index)

    storage = FolderStorage(tmp_path)
    examples = [example("a"), example("b"), example("c")]
    result, seen = await run(examples, searching(WrittenPolicy(picky), CONFIG), storage)
    assert result.failures == {"SCENE_UNKNOWN": 1}
    assert set(result.broken_rollouts) == {"CONTEXT_OVERFLOW"}
    assert result.trees_per_s > 0
    assert (result.eta_s, seen[0].eta_s is not None) == (0.0, True)
    again, _ = await run(examples, searching(WrittenPolicy(written), CONFIG), storage)
    assert (again.failures, again.broken_rollouts, again.eta_s) == ({"SCENE_UNKNOWN": 1}, {}, None)


async def test_a_question_that_cannot_even_be_opened_is_not_tried_again(tmp_path: Path) -> None:
    broken = example("b")
    broken = replace(broken, images=(replace(broken.images[0], sha256="0" * 64, data=b"no picture"),))
    storage = FolderStorage(tmp_path)
    search = searching(WrittenPolicy(written), CONFIG)
    for resumed in (0, 2):
        progress = await search_dataset(
            [example("a"), broken], search, policy="w", storage=storage, prefix=JOURNAL, on_progress=lambda _: None
        )
        assert (progress.resumed, progress.failures) == (resumed, {"IMAGE_UNREADABLE": 1})


async def test_leaving_the_call_stops_the_work_and_keeps_what_is_committed(tmp_path: Path) -> None:
    stopped = 0
    stuck = asyncio.Event()

    async def before() -> None:
        nonlocal stopped
        if len(policy.requests) > 12:
            stuck.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped += 1
                raise

    policy = WrittenPolicy(written, before)
    storage = FolderStorage(tmp_path)
    examples = [example(name) for name in "abcdefgh"]
    call = asyncio.create_task(run(examples, searching(policy, CONFIG), storage))
    await asyncio.wait_for(stuck.wait(), 5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    asked = len(policy.requests)
    await asyncio.sleep(0.05)
    assert stopped > 0
    assert len(policy.requests) == asked, "nobody works on"
    kept = sum(len(records) for records in by_tree(storage).values())
    assert kept > 2
    result, _ = await run(examples, searching(WrittenPolicy(written), CONFIG), storage)
    assert (result.done, result.failed) == (8, 0)
    assert all(records[-1]["kind"] == "end" for records in by_tree(storage).values())


async def test_a_tree_stays_with_one_replica_in_every_mode(tmp_path: Path) -> None:
    class Told(Talker):
        def __init__(self) -> None:
            super().__init__(zoom=False)
            self.questions: list[str] = []

        async def generate(self, prompt: Sequence[Segment], **rest: Any) -> Generation:
            self.questions.append(prompt[0].text.partition("Previous thought")[0].strip())
            return await super().generate(prompt, **rest)

    replicas = Told(), Told()
    examples = [example(f"tree-{number}") for number in range(32)]
    async with served(replicas[0], "talker") as one, served(replicas[1], "talker") as other:  # type: ignore[arg-type]
        for mode in ("thought_steps", "classic"):
            client = PolicyClient(f"{one},{other}", "talker")
            task = TASK.model_copy(update={"mode": mode, "prompt": "single_turn"})
            config = CONFIG.model_copy(update={"dedup_radius_px": 0.0})
            result, _ = await run(examples, searching(client, config, task=task), FolderStorage(tmp_path / mode))
            assert (result.done, result.failed) == (32, 0)
            await client.close()
    here, there = (set(replica.questions) for replica in replicas)
    assert len(here | there) == 32
    assert here
    assert there
    assert not here & there


async def test_after_an_outage_the_same_call_finishes_what_is_left(tmp_path: Path) -> None:
    outage = True

    def flaky(prompt: Sequence[Segment], index: int) -> str:
        if outage and "What is it, b?" in prompt[0].text and len(policy.requests) > 4:
            raise PolicyError("unreachable", reason="UNAVAILABLE", infrastructure=True)
        return written(prompt, index)

    policy = WrittenPolicy(flaky)
    storage, examples = FolderStorage(tmp_path), [example("a"), example("b")]
    result, _ = await run(examples, searching(policy, CONFIG), storage)
    assert (result.done, result.failed) == (2, 1)
    outage = False
    result, _ = await run(examples, searching(policy, CONFIG), storage)
    assert (result.done, result.failed, result.solved, result.resumed) == (2, 0, 2, 1)


async def test_finished_trees_are_not_searched_again(tmp_path: Path) -> None:
    storage, examples = FolderStorage(tmp_path), [example("a"), example("b")]
    await run(examples, searching(WrittenPolicy(written), CONFIG), storage)
    before = by_tree(storage)
    idle = WrittenPolicy(written)
    result, seen = await run(examples, searching(idle, CONFIG), storage)
    assert not idle.requests
    assert not seen
    assert (result.done, result.resumed, result.solved) == (2, 2, 2)
    assert by_tree(storage) == before


@pytest.mark.parametrize("kept", range(1, 6))
async def test_an_interrupted_tree_ends_as_if_nothing_had_happened(tmp_path: Path, kept: int) -> None:
    whole, broken = FolderStorage(tmp_path / "whole"), FolderStorage(tmp_path / "broken")
    runs = []
    for storage in (whole, broken):
        images = ImageStore(storage)
        examples = scenes(images, 1)
        runs.append((examples, searching(teacher(examples, tmp_path), CONFIG), storage))
    await run(*runs[0])
    expected = by_tree(whole)
    (records,) = expected.values()
    assert [r["kind"] for r in records] == ["root", "simulation", "simulation", "simulation", "end"]
    # A simulation's crops are in the store before its record is in the journal.
    for sha256 in {image["sha256"] for record in records[:kept] for image in record.get("images", ())}:
        ImageStore(broken).put(ImageStore(whole).get(sha256).data or b"")
    with SegmentWriter(broken, JOURNAL) as writer:
        for record in records[:kept]:
            writer.append(record)
    await run(*runs[1])
    assert by_tree(broken) == expected


async def test_a_data_set_in_a_bucket_is_searched_and_resumed(s3_storage: Storage) -> None:
    images = ImageStore(s3_storage)
    examples = scenes(images, 3)
    first = searching(teacher(examples, Path("x")), CONFIG)
    result, _ = await run(examples[:2], first, s3_storage)
    assert result.done == 2
    result, _ = await run(examples, first, s3_storage)
    assert (result.done, result.resumed) == (3, 2)
    assert len(list(read_trees(s3_storage, JOURNAL, ImageStore(s3_storage)))) == 3


SLOW_SEARCH = """
import asyncio, sys
from tests.search.support import *
from tests.search.test_coordinator import CONFIG, run, written
from vigorl_lib.storage.folder import FolderStorage
root, pause = sys.argv[1:]
policy = WrittenPolicy(written, lambda: asyncio.sleep(float(pause)))
examples = [example(f"e{k}") for k in range(8)]
from vigorl_lib.rpc.loop import run_loop
result, _ = run_loop(run(examples, searching(policy, CONFIG), FolderStorage(Path(root))))
print(len(policy.requests), result.done, result.resumed)
"""


def test_a_killed_search_goes_on_and_ends_complete_without_duplicates(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_SEARCH, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.Popen([*command, "0.03"], env=environment)
    storage = FolderStorage(tmp_path)
    deadline = time.monotonic() + 30
    while sum(r["kind"] == "simulation" for r in read_segments(storage, JOURNAL)) < 5:
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = sum(r["kind"] == "simulation" for r in read_segments(storage, JOURNAL))
    output = subprocess.run([*command, "0"], env=environment, check=True, capture_output=True, text=True).stdout
    requests, done, _ = map(int, output.split())
    records = by_tree(storage)
    assert done == len(records) == 8
    assert all(
        [r["kind"] for r in group] == ["root", "simulation", "simulation", "simulation", "end"]
        for group in records.values()
    )
    # One expansion asks once for both children; rollouts of two zooming children ask four times.
    assert requests < 8 * (3 + 4)
    assert 8 * 3 - kept <= requests


class Faulty(SegmentWriter):
    """Refuses records that say so, and may be held up."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage, JOURNAL)
        self.go_on = threading.Event()
        self.go_on.set()

    def append_line(self, text: str) -> None:
        self.go_on.wait(5)
        if "bad" in text:
            raise StorageError("away", reason="STORAGE_UNAVAILABLE")
        super().append_line(text)


def entry(number: int, kind: str = "good") -> Entry:
    return Entry(str(number), json.dumps({"number": number, "kind": kind}))


async def test_of_records_that_are_written_together_one_that_fails_fails_alone(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    writer = Faulty(storage)
    journal = BatchedJournal(writer)
    writer.go_on.clear()
    calls = [journal(entry(number, "bad" if number == 3 else "good")) for number in range(8)]
    told = asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(0.05)
    writer.go_on.set()
    assert [isinstance(one, StorageError) for one in await told] == [number == 3 for number in range(8)]
    await journal.close()
    assert [record["number"] for record in read_segments(storage, JOURNAL)] == [0, 1, 2, 4, 5, 6, 7]


async def test_what_waits_is_written_before_a_journal_closes_whoever_has_left(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    writer = Faulty(storage)
    journal = BatchedJournal(writer)
    writer.go_on.clear()
    calls = [asyncio.create_task(journal(entry(number))) for number in range(8)]
    await asyncio.sleep(0.05)
    calls[5].cancel()
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    writer.go_on.set()
    await closing
    assert [call.cancelled() for call in calls] == [number == 5 for number in range(8)]
    assert [record["number"] for record in read_segments(storage, JOURNAL)] == list(range(8))


async def test_a_blip_of_the_storage_leaves_one_tree_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, blips = FolderStorage(tmp_path), iter([True])
    append = SegmentWriter.append_line

    def once_away(writer: SegmentWriter, text: str) -> None:
        if '"simulation"' in text and next(blips, False):
            raise StorageError("away", reason="STORAGE_UNAVAILABLE")
        append(writer, text)

    monkeypatch.setattr(SegmentWriter, "append_line", once_away)
    examples = [example(f"tree-{number}") for number in range(12)]
    config = CONFIG.model_copy(update={"trees_in_flight": 12})
    result, _ = await run(examples, searching(WrittenPolicy(written), config), storage)
    assert (result.done, result.failed, result.failures) == (12, 1, {"STORAGE_UNAVAILABLE": 1})
    result, _ = await run(examples, searching(WrittenPolicy(written), config), storage)
    assert (result.resumed, result.done, result.failed) == (11, 12, 0)
