"""What the searches of one run must have in common, and which journals a run that is dealt anew has to know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.search.support import REWARD, TASK, WrittenPolicy, answer, example, searching, zoom
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import ConfigError
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import SearchProgress, search_dataset
from vigorl_lib.search.run_claims import claim_run, other_journals, search_settings
from vigorl_lib.search.shards import Shard
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.layout import RunLayout

CONFIG = SearchConfig(simulations=1, children=1, rollouts_per_child=1)
EXAMPLES = [example(f"e{number}") for number in range(9)]


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(FolderStorage(tmp_path), "r")


async def settings(seed: int = 0, task: dict[str, Any] | None = None, **search: Any) -> dict[str, Any]:
    info = await WrittenPolicy(lambda prompt, index: "").info()
    asked = TASK.model_copy(update=task or {})
    return search_settings(info, asked, REWARD, CONFIG.model_copy(update=search), seed=seed, dataset="d/train")


def looks_then_answers(prompt: object, index: int) -> str:
    segments: tuple[Segment, ...] = tuple(prompt)  # type: ignore[arg-type]
    return zoom(50, 50) if len(segments) == 1 else answer("pink")


async def search(layout: RunLayout, shard: Shard) -> tuple[SearchProgress, int]:
    """A search as the service does it; how it went, and how often the policy was asked."""
    policy = WrittenPolicy(looks_then_answers)
    progress = await search_dataset(
        [one for one in EXAMPLES if shard.holds(one.example_id)],
        searching(policy, CONFIG),
        policy="written",
        storage=layout.storage,
        prefix=layout.search(shard.index),
        on_progress=lambda _: None,
        others=other_journals(layout, shard),
    )
    return progress, len(policy.requests)


async def test_trees_of_other_settings_are_refused_and_what_changed_is_named(layout: RunLayout) -> None:
    claim_run(layout, await settings())
    await search(layout, Shard())
    claim_run(layout, await settings())
    changed = await settings(5, simulations=8)
    with pytest.raises(ConfigError, match=r"simulations was 1, is 8; seed was 0, is 5.*another --run-id") as error:
        claim_run(layout, changed)
    assert error.value.reason == "SEARCH_DIFFERS"
    assert error.value.metadata["changed"] == "search.simulations,seed"
    with pytest.raises(ConfigError, match=r"task.mode was 'multi_turn', is 'single_turn'"):
        claim_run(layout, await settings(task={"mode": "single_turn"}))


async def test_a_run_may_go_on_with_more_examples_and_at_another_pace(layout: RunLayout) -> None:
    claim_run(layout, await settings(limit=3))
    await search(layout, Shard())
    claim_run(layout, await settings(limit=9, trees_in_flight=2, simulations_in_flight=3, deadline_s=5.0))


async def test_an_attempt_that_found_nothing_binds_nobody(layout: RunLayout) -> None:
    claim_run(layout, await settings())
    claim_run(layout, await settings(simulations=8))
    await search(layout, Shard())
    with pytest.raises(ConfigError, match=r"search.simulations was 8, is 1"):
        claim_run(layout, await settings())


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return FolderStorage(tmp_path)
    bucket: Storage = request.getfixturevalue("s3_storage")
    return bucket


async def test_what_is_dealt_anew_is_not_searched_again(storage: Storage) -> None:
    layout = RunLayout(storage, "r")
    for index in range(3):
        await search(layout, Shard(index, 3))
        assert other_journals(layout, Shard(index, 3)) == [], "one deal needs no other journal"
    for index in range(2):
        progress, asked = await search(layout, Shard(index, 2))
        assert (progress.done, progress.resumed, asked) == (progress.total, progress.total, 0)
    progress, asked = await search(layout, Shard())
    assert (progress.resumed, asked) == (9, 0)
