"""The pods of a rendered job as local processes, in the environment that training-operator sets, with a real bucket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.test_manifests import spec
from tests.training.conftest import made, storage  # noqa: F401
from tests.training.support import free_port, sft_values, wait_for
from vigorl_lib.config import validate
from vigorl_lib.jobs.manifests import pytorch_job
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.commit import verify
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_lib.training.checkpoint import checkpoint_steps, model_key

DEADLINE_S = 150.0


@contextmanager
def running(job: dict[str, Any], secret: dict[str, str], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """One process a pod, ended with its ranks; variables from secrets get the secret's values."""
    folder.mkdir()
    replicas = job["spec"]["pytorchReplicaSpecs"]
    pods = [replica["template"]["spec"] for replica in replicas.values() for _ in range(replica["replicas"])]
    port, started = str(free_port()), []
    for rank, pod in enumerate(pods):
        (container,) = pod["containers"]
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PET_NNODES": str(len(pods)),
            "PET_NPROC_PER_NODE": job["spec"]["nprocPerNode"],
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(len(pods)),
            "RANK": str(rank),
        }
        for variable in container["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
            environment[variable["name"]] = secret[reference] if reference else variable["value"]
        arguments = [argument.replace("$$", "$") for argument in container["args"]]
        command = [*container["command"], *arguments]
        with (folder / f"{rank}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=folder, stderr=log)
        started.append(process)
    try:
        yield started
    finally:
        # As the kubelet: the launcher takes its ranks with it, if it is asked first.
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


@pytest.mark.slow
def test_a_rendered_job_trains_on_two_pods_and_continues_when_it_is_submitted_again(
    storage: Storage,  # noqa: F811
    s3_storage: S3Storage,
    s3_settings: S3Settings,
    tmp_path: Path,
) -> None:
    for key in storage.list(""):
        s3_storage.write(key, storage.read(key))

    recipe = {"root": s3_storage.uri, "run_id": "demo", "seed": 3, "sft": sft_values(steps=60)}
    job = pytorch_job(
        spec(
            recipe=validate(Recipe, recipe, source="test").model_dump(mode="json"),
            workers=1,
            gpus=0,
            s3={"endpoint": s3_settings.endpoint, "secure": False, "secret": "s3"},
        )
    )
    secret = {"access-key": s3_settings.access_key, "secret-key": s3_settings.secret_key.get_secret_value()}
    layout = RunLayout(s3_storage, "demo/sft")
    with running(job, secret, tmp_path / "first") as pods:
        wait_for(lambda: bool(checkpoint_steps(layout)), pods[0])
    assert not s3_storage.list(f"{model_key(layout)}/")
    with running(job, secret, tmp_path / "second") as pods:
        assert [pod.wait(DEADLINE_S) for pod in pods] == [0, 0]
    verify(s3_storage, model_key(layout))
    told = re.search(r"from step (\d+) of 60", (tmp_path / "second" / "0.log").read_text())
    assert told is not None
    assert int(told[1]) > 0
