"""Zooming search finds what non-zooming search can only guess, on synthetic scenes with the scripted teacher."""

from __future__ import annotations

from tests.bench import success


async def test_zooming_search_solves_more_small_targets() -> None:
    rows = await success.with_teacher(success.held_out_scenes(40))
    found = {(row.zoom, row.what): row for row in rows}
    for what in ("vote of 8", "MCTS, vote"):
        assert found[True, what].small.low > found[False, what].small.high, what
    assert found[True, "success@1"].small.value > found[False, "success@1"].small.value
    assert found[True, "success@8"].all.value >= found[True, "success@1"].all.value
    assert len(success.table(rows).splitlines()) == 1 + len(rows) == 11
