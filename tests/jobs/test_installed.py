"""GRPO on two pods against the services of the chart, with TLS and tokens: all from rendered manifests.

The services start from the very `config.json` of the chart's ConfigMaps, the job's containers from what
`vigorl jobs render` prints; `tests/jobs/kubelet.py` says what differs from a cluster.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.chart.tools import find_helm
from tests.jobs.kubelet import Node, deploy, finish, run_indexed_job, run_pytorch_job
from tests.rpc.test_tls import Authority
from tests.training.conftest import made, storage  # noqa: F401
from tests.training.support import free_port
from vigorl_lib.cli.main import cli
from vigorl_lib.errors import RemoteError
from vigorl_lib.evaluation.run import read_records
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc.channels import Connections
from vigorl_lib.rpc.config import ClientConfig
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.commit import verify
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_lib.training.checkpoint import checkpoint_steps, model_key
from vigorl_lib.training.metrics import read_metrics

STEPS = 4
EXAMPLES = 8
"""Of the data set that the fixture `made` makes."""
SMALL = {
    "grpo.init": "tiny",
    "grpo.steps": STEPS,
    "grpo.prompts": 2,
    "grpo.group_size": 2,
    # A model that knows nothing earns nothing: without this no group would be trained on.
    "grpo.drop_zero_variance": False,
    "grpo.checkpoint": {"every": 1, "keep": 2},
    "grpo.log_every": 1,
    "task.max_turn_tokens": 8,
    "task.max_tokens": 64,
}
DEADLINE_S = 200.0
CHART = Path(__file__).resolve().parents[2] / "charts" / "vigorl"


def secrets(s3: S3Settings, folder: Path) -> dict[str, dict[str, bytes]]:
    """What an administrator makes before the installation."""
    folder.mkdir()
    authority = Authority.create("vigorl", folder)
    certificate, key = authority.issue("localhost")
    return {
        "vigorl-s3": {
            "access-key": s3.access_key.encode(),
            "secret-key": s3.secret_key.get_secret_value().encode(),
        },
        "vigorl-auth": {"token": b"everybody", "admin-token": b"trainer", "state-key": b"0" * 32},
        "vigorl-tls": {
            "ca.crt": authority.path.read_bytes(),
            "tls.crt": certificate.read_bytes(),
            "tls.key": key.read_bytes(),
        },
    }


def chart_values(root: str, s3: S3Settings) -> dict[str, Any]:
    policy = {
        "engine": "transformers",
        "model": f"{root}/tiny",
        "trainable_by": "demo/grpo",
    }
    return {
        "storage": {
            "root": root,
            "s3": {"endpoint": s3.endpoint, "secure": False, "existingSecret": "vigorl-s3"},
        },
        "auth": {"existingSecret": "vigorl-auth"},
        "tls": {"existingSecret": "vigorl-tls", "mutual": True},
        "policyDefaults": {"gpus": 0},
        "policies": {"student": {"config": {"policy": policy}}},
    }


def rendered_chart(values: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    helm = find_helm()
    if helm is None:
        pytest.skip("no helm on the PATH and its package cannot be downloaded")
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [str(helm), "template", "vigorl", str(CHART), "-f", str(file), "--namespace", "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def rendered_job(kind: str, root: str, s3: S3Settings, recipe: Mapping[str, Any], **job: Any) -> dict[str, Any]:
    """What `vigorl jobs render` prints."""
    job |= {
        "gpus": 0,
        "s3": {"endpoint": s3.endpoint, "secure": False, "secret": "vigorl-s3"},
        "auth_secret": "vigorl-auth",
        "tls_secret": "vigorl-tls",
        "mtls": True,
    }
    command = ["jobs", "render", kind, "--run-id", "demo", "--root", root]
    command += [f"--set={key}={json.dumps(value)}" for key, value in recipe.items()]
    command += [f"--job-set={key}={json.dumps(value)}" for key, value in job.items()]
    result = CliRunner().invoke(cli, command, catch_exceptions=False, env={})
    assert result.exit_code == 0, result.output
    rendered: dict[str, Any] = yaml.safe_load(result.stdout)
    return rendered


@pytest.fixture
def node(
    storage: Storage,  # noqa: F811
    s3_storage: S3Storage,
    s3_settings: S3Settings,
    tmp_path: Path,
) -> Iterator[Node]:
    """A machine on which the chart is installed, with a model and a data set in the bucket."""
    for key in storage.list(""):
        s3_storage.write(key, storage.read(key))
    node = Node(tmp_path, secrets(s3_settings, tmp_path / "authority"))
    try:
        deploy(node, rendered_chart(chart_values(s3_storage.uri, s3_settings), tmp_path))
        yield node
    finally:
        node.stop()


@pytest.mark.parametrize(
    "lost", [None, pytest.param("worker", marks=pytest.mark.slow), pytest.param("master", marks=pytest.mark.slow)]
)
def test_grpo_on_two_pods_trains_the_installed_policy_whichever_pod_is_lost(
    node: Node, s3_storage: S3Storage, s3_settings: S3Settings, lost: str | None
) -> None:
    layout = RunLayout(s3_storage, "demo/grpo")
    job = rendered_job("grpo", s3_storage.uri, s3_settings, SMALL, workers=1)
    master, producer, worker = containers = run_pytorch_job(node, job, free_port())
    if lost is not None:
        producer.until(lambda: bool(checkpoint_steps(layout)), DEADLINE_S)
        {"master": master, "worker": worker}[lost].kill()
    finish(containers, DEADLINE_S)
    resumed = [int(step) for step in re.findall(rf"from step (\d+) of {STEPS}", master.log)]
    assert resumed[0] == 0
    assert (resumed[-1] > 0) == (lost is not None)
    # The producer stays, and a master that is still there takes the worker back.
    assert producer.restarts == 0
    assert (worker.restarts > 0) == (lost is not None)
    assert (master.restarts > 0) == (lost == "master")
    verify(s3_storage, model_key(layout))
    assert len(read_metrics(layout)) == STEPS
    asyncio.run(only_the_trainer_may_give_weights(node, version=STEPS))


@pytest.mark.slow
def test_the_pods_of_an_indexed_job_share_the_data_set(
    node: Node, s3_storage: S3Storage, s3_settings: S3Settings
) -> None:
    layout = RunLayout(s3_storage, "demo")
    small = {"policy": "student", "dataset.split": "train", "task.max_turn_tokens": 8, "task.max_tokens": 64}
    modes = {**small, "evaluation.modes": ["multi_turn"]}
    job = rendered_job("evaluate", s3_storage.uri, s3_settings, modes, shards=2)
    finish(run_indexed_job(node, job), DEADLINE_S)
    records = read_records(s3_storage, layout.evaluation("student", "multi_turn"))
    assert len({record.example_id for record in records}) == len(records) == EXAMPLES
    trees = {**small, "search.simulations": 1, "search.children": 1}
    finish(run_indexed_job(node, rendered_job("search", s3_storage.uri, s3_settings, trees, shards=2)), DEADLINE_S)
    assert s3_storage.list(f"{layout.search(0)}/")
    assert s3_storage.list(f"{layout.search(1)}/")


async def only_the_trainer_may_give_weights(node: Node, *, version: int) -> None:
    """The served policy has the last version but one, or the last, and its admin listener wants its own token."""
    host = "vigorl-policy-student.default.svc"
    files = node.folder / "vigorl-policy-student" / "volumes" / "tls"
    tls = ClientConfig(tls_ca=files / "ca.crt", tls_certificate=files / "tls.crt", tls_key=files / "tls.key")
    connections = Connections(tls, token="everybody")
    target, admin = node.targets[f"{host}:50051"], node.targets[f"{host}:50052"]
    policy = PolicyClient(target, "student", admin=admin, connections=connections)
    try:
        # Nobody asks for the last one: only `CURRENT` names it.
        assert (await policy.info()).version in (version - 1, version)
        with pytest.raises(RemoteError) as caught:
            await policy.update_weights(version=version, uri="s3://elsewhere/weights", run_id="demo/grpo")
        assert caught.value.reason == "TOKEN_INVALID"
    finally:
        await policy.close()
        await connections.close()
