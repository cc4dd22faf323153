"""`vigorl behaviours --judge` against a real endpoint, and what it says where something is missing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.evaluation.support import PERFECT, measure, scenes, teacher
from tests.fixtures_openai import Reply, completion, serving
from tests.reward.test_judge import config_of
from vigorl_lib.cli.behaviours import behaviours
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.report.evaluation import write_evaluation_report
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore

SCENES = scenes(2)


async def evaluated(root: Path, keep: int) -> Storage:
    storage = open_storage(str(root))
    write_dataset(storage, ImageStore(storage), "scenes", "test", SCENES)
    policy = teacher(SCENES, direct_rate=0.0, **PERFECT)
    prefix = "runs/r/evaluation/teacher/multi_turn"
    await measure(SCENES, policy, storage, prefix=prefix, keep=keep, dataset="scenes/test")
    return storage


def run(root: Path, *options: str) -> Result:
    arguments = ["--root", str(root), "--run-id", "r", *options]
    return CliRunner().invoke(behaviours, arguments, catch_exceptions=False)


async def test_rules_and_judge_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai", reason="the openai package is not installed (extra openai)")
    monkeypatch.setenv("VIGORL_OPENAI__API_KEY", "sk-test")
    storage = await evaluated(tmp_path, keep=2)
    asked = 0

    def three(body: dict[str, Any]) -> Reply:
        nonlocal asked
        asked += 1
        return completion("<count> 3 </count>")

    async with serving(three) as endpoint:
        judge = json.dumps(config_of(endpoint.url).model_dump(mode="json", exclude_defaults=True))
        options = ("--judge", "--set", f"services.judge={judge}")
        found = json.loads((await asyncio.to_thread(run, tmp_path, *options, "--json")).stdout)
        again = (await asyncio.to_thread(run, tmp_path, *options)).stdout
    assert [row["counted_by"].partition("#")[0] for row in found] == ["rules", "judge@r7/0"]
    assert found[0]["means"]["zooms"]["value"] == 1.0
    assert found[1]["means"]["regions"] == {"value": 3.0, "low": 3.0, "high": 3.0, "n": 2}
    assert asked == 2 * 4, "the second call asked nothing"
    assert "3.00 [3.00, 3.00]" in again
    page = storage.read(write_evaluation_report(storage, "r")).decode()
    assert "teacher, multi turn, by judge@r7/0" in page
    assert "<b>3.00</b>" in page
    assert len({line.index("teacher") for line in again.splitlines() if "teacher" in line}) == 1


async def test_what_is_missing_is_named_with_what_to_add(tmp_path: Path) -> None:
    await evaluated(tmp_path, keep=0)
    with pytest.raises(DataError, match=r"kept no trajectory that ends right.*keep_trajectories"):
        await asyncio.to_thread(run, tmp_path)
    with pytest.raises(ConfigError, match=r"services\.judge\.target") as failure:
        await asyncio.to_thread(run, tmp_path, "--judge")
    assert failure.value.reason == "JUDGE_MISSING"
