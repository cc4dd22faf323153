from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.services.conftest import serving
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.main import cli
from vigorl_lib.cli.search import search_in_processes
from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.errors import ConfigError
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.search.archive import read_archive
from vigorl_lib.search.shards import Shard, parse_shard, shard_from_environment, shard_of
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.layout import RunLayout
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.__main__ import build as build_policy

IDS = [f"example-{k}" for k in range(1000)]


def test_every_example_is_in_one_shard_and_shards_are_about_even() -> None:
    sizes = Counter(shard_of(name, 8) for name in IDS)
    assert set(sizes) == set(range(8))
    assert max(sizes.values()) < 1.5 * min(sizes.values())
    assert all(sum(Shard(k, 8).holds(name) for k in range(8)) == 1 for name in IDS)


def test_a_shard_is_the_same_in_another_process() -> None:
    code = f"from vigorl_lib.search.shards import shard_of; print([shard_of(n, 7) for n in {IDS[:20]}])"
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(output) == [shard_of(name, 7) for name in IDS[:20]]


def test_the_environment_of_an_indexed_job_names_the_shard() -> None:
    assert shard_from_environment({"JOB_COMPLETION_INDEX": "2", "VIGORL_SHARDS": "4"}) == Shard(2, 4)
    assert shard_from_environment({}) == Shard(0, 1)
    assert shard_from_environment({"JOB_COMPLETION_INDEX": "0"}) == Shard(0, 1)


@pytest.mark.parametrize("environment", [{"JOB_COMPLETION_INDEX": "2"}, {"VIGORL_SHARDS": "4"}])
def test_half_of_a_shard_is_refused_since_all_pods_would_do_the_same(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        shard_from_environment(environment)
    assert caught.value.reason == "SHARD_INVALID"


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "0/0", "1/4/2", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard(text)
    assert caught.value.reason == "SHARD_INVALID"


def test_the_command_takes_a_shard_from_its_option_or_from_the_environment() -> None:
    def run(*arguments: str, **environment: str) -> int:
        outcome = CliRunner().invoke(cli, ["search", "--dry-run", *arguments], env=environment)
        return 0 if outcome.exception is None else 1

    assert run("--shard", "3/4") == 0
    assert run("--shard", "4/4") == 1
    assert run(JOB_COMPLETION_INDEX="3", VIGORL_SHARDS="4") == 0
    assert run(JOB_COMPLETION_INDEX="3", VIGORL_SHARDS="2") == 1


async def test_processes_on_one_machine_share_a_data_set_and_leave_one_archive(
    tmp_path: Path, tiny_folder: Path
) -> None:
    storage = FolderStorage(tmp_path)
    make_synthetic(storage, "scenes", {"train": 12}, 0)
    scripted = ScriptedConfig(root=str(tmp_path), dataset="scenes")
    policy = PolicyConfig(name="scripted-teacher", engine="scripted", model=str(tiny_folder), scripted=scripted)
    async with serving(build_policy, PolicyServiceConfig(policy=policy, root=str(tmp_path))) as address:
        recipe = resolve(
            "quickstart-search",
            (
                "dataset.name=scenes",
                "search.simulations=2",
                f"services.policies.scripted-teacher={json.dumps(address)}",
                "policy=scripted-teacher",
            ),
            root=str(tmp_path),
            run_id="run",
        )
        result = await asyncio.to_thread(search_in_processes, recipe, 2)
    assert result["trees"] == 12
    layout = RunLayout(storage, "run")
    assert len({tree.example_id for tree in read_archive(storage, layout.trees)}) == 12
    assert all(storage.list(f"{layout.search(index)}/") for index in (0, 1))
