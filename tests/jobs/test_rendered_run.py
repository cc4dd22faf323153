"""The pods of a rendered SFT job on a real bucket: killed, and submitted again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.kubelet import Container, Node, finish, run_pytorch_job
from tests.jobs.test_manifests import spec
from tests.training.conftest import made, storage  # noqa: F401
from tests.training.support import free_port, sft_values
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
def submitted(job: dict[str, Any], secret: dict[str, bytes], folder: Path) -> Iterator[list[Container]]:
    """The job's containers; deleted with the job at the end of the block."""
    node = Node(folder, {"s3": secret})
    try:
        yield run_pytorch_job(node, job, free_port())
    finally:
        node.stop()


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
            services={},
            workers=1,
            gpus=0,
            s3={"endpoint": s3_settings.endpoint, "secure": False, "secret": "s3"},
        )
    )
    secret = {
        "access-key": s3_settings.access_key.encode(),
        "secret-key": s3_settings.secret_key.get_secret_value().encode(),
    }
    layout = RunLayout(s3_storage, "demo/sft")
    with submitted(job, secret, tmp_path / "first") as (master, _):
        master.until(lambda: bool(checkpoint_steps(layout)), DEADLINE_S)
    assert not s3_storage.list(f"{model_key(layout)}/")
    with submitted(job, secret, tmp_path / "second") as containers:
        finish(containers, DEADLINE_S)
        assert not any(container.restarts for container in containers)
    verify(s3_storage, model_key(layout))
    told = re.search(r"from step (\d+) of 60", containers[0].log)
    assert told is not None
    assert int(told[1]) > 0
