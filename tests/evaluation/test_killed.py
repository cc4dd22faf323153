"""An evaluation that is killed without a word and called again: a real process, a folder, a policy behind gRPC."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from tests.evaluation.support import scenes
from tests.evaluation.test_stopped import NAME, served
from tests.rollout.support import WordPolicy
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.domain.grammar import Answer, render_turn
from vigorl_lib.evaluation.run import read_records
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

SCENES = scenes(24)
DELAY_S = 0.05


async def test_one_that_was_killed_goes_on_and_prints_the_table_of_one_that_was_not(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    write_dataset(storage, ImageStore(storage), "scenes", "test", SCENES)
    prefix = RunLayout(storage, "killed").evaluation(NAME, "multi_turn")
    policy = WordPolicy(lambda prompt, index: render_turn("At (20, 20).", Answer("pink")), delay=lambda _: DELAY_S)
    async with served(policy, storage) as address:

        async def start(run_id: str) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "vigorl_lib.cli.main", "eval", "--root", str(tmp_path), "--run-id", run_id),
                *("--policy", NAME, "--set", f"services={json.dumps({'policies': {NAME: address}})}"),
                *("--set", "dataset.name=scenes", "--set", "evaluation.modes=[multi_turn]"),
                *("--set", "evaluation.max_in_flight=1"),
                stdout=asyncio.subprocess.PIPE,
            )

        process = await start("killed")
        async with asyncio.timeout(60):
            while not 3 <= len(read_records(storage, prefix)) < len(SCENES):
                assert process.returncode is None, "it ended before it was killed"
                await asyncio.sleep(0.05)
        process.kill()
        await process.wait()
        # A question may be on its way to the policy still.
        await asyncio.sleep(2 * DELAY_S)
        recorded, asked = len(read_records(storage, prefix)), len(policy.calls)
        tables = [(await (await start(run_id)).communicate())[0] for run_id in ("killed", "whole")]
    assert tables[0] == tables[1]
    assert f" {len(SCENES)} ".encode() in tables[0]
    assert len(policy.calls) - asked == (len(SCENES) - recorded) + len(SCENES), "what is recorded is not asked again"
