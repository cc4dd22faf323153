"""`vigorl linearize`: what it refuses, and the page that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.search.support import scenes, searching, teacher
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.linearize import linearize_run
from vigorl_lib.data.chains import read_chains
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.errors import DataError
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout


def test_a_run_without_trees_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    recipe = resolve("quickstart-search", (f"root={tmp_path}", "run_id=none"))
    with pytest.raises(DataError, match=r"no finished tree under runs/none/search.*run `vigorl search` first") as error:
        linearize_run(recipe, "c")
    assert error.value.reason == "TREES_MISSING"
    assert not list(tmp_path.rglob("*.parquet"))


async def test_the_page_shows_statistics_and_some_chains_of_each_kind(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    images, layout = ImageStore(storage), RunLayout(storage, "r")
    examples = scenes(images, 6)
    write_dataset(storage, images, "visual-search", "train", examples)
    policy = teacher(examples, tmp_path, distractor_rate=0.4, error_rate=0.2, unseen_error_rate=0.5)
    search = searching(policy, SearchConfig(simulations=3, dedup_radius_px=3), images=images)
    await search_dataset(
        examples, search, policy="t", storage=storage, prefix=layout.search(), on_progress=lambda progress: None
    )
    recipe = resolve("quickstart-search", (f"root={tmp_path}", "run_id=r", "linearize.single_turn_after_zoom=true"))
    linearize_run(recipe, "c", ["trl"])
    page = storage.read(f"{layout.chains}/c.html").decode()
    keys = [f"{layout.chains}/c-{split}.parquet" for split in ("train", "validation")]
    chains = [chain for key in keys for chain in read_chains(storage, key)]
    shown = [chain for chain in chains if chain.trajectory_id in page]
    assert all(f'id="{kind}"' in page for kind in ("direct", "corrected", "single"))
    assert 3 <= len(shown) < len(chains)
    assert "questions solved" in page
    assert "not exported trl" in page
    assert page.count("data:image/") >= len(shown), "each with its pictures, in the file"
    linearize_run(recipe, "c", ["trl"])
    assert storage.read(f"{layout.chains}/c.html").decode() == page, "the same chains, the same page"
