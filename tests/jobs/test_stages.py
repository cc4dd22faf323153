"""Stages are done once, and one that failed is done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.jobs.stages import StageRunner, read_stages
from vigorl_lib.storage.base import open_storage


def test_a_stage_is_done_once_and_its_record_survives(tmp_path: Path) -> None:
    storage, begun = open_storage(str(tmp_path)), []

    def runner() -> StageRunner:
        return StageRunner(storage, "runs/r", lambda name, title: begun.append(name))

    def fails() -> dict[str, float]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        runner().run("a", "first", fails)
    first = runner()
    first.run("a", "first", lambda: {"x": 1.0})
    second = runner()
    record = second.run("a", "first", lambda: pytest.fail("done twice"))
    assert record.figures == {"x": 1.0}
    assert (first.skipped, second.skipped) == (0, 1)
    assert begun == ["a", "a"]
    assert [stage.name for stage in read_stages(storage, "runs/r")] == ["a"]
