"""`helm test` runs `vigorl check` on what the release has, with its credentials, and may reach it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.chart.extras import EXTERNAL, Document, documents, kinds, one
from tests.jobs.kubelet import Node, deploy
from tests.rpc.test_tls import Authority
from vigorl_lib.cli.main import cli
from vigorl_lib.config import validate
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.s3 import S3Storage

SAFE = {**EXTERNAL, "auth": {"existingSecret": "tokens"}, "tls": {"existingSecret": "certificates", "mutual": True}}


def container(found: list[Document]) -> Document:
    (pod,) = kinds(found, "Pod")
    (only,) = pod["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def services(found: list[Document]) -> dict[str, Any]:
    (text,) = (a.removeprefix("--set=services=") for a in container(found)["args"] if a.startswith("--set=services="))
    section: dict[str, Any] = json.loads(text)
    return section


def test_it_is_a_test_hook_that_may_run_again() -> None:
    (pod,) = kinds(documents(EXTERNAL), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert not kinds(documents({**EXTERNAL, "tests": {"enabled": False}}), "Pod")


def test_it_asks_every_service_of_the_release_and_no_other() -> None:
    found = documents({**EXTERNAL, "evaluation": {"enabled": False}})
    section = services(found)
    targets = [*section.pop("policies").values(), *section.values()]
    hosts = {target.removeprefix("dns:///").split(".")[0] for target in targets}
    assert hosts == {service["metadata"]["name"] for service in kinds(found, "Service")}
    assert "evaluation" not in section


def test_search_answers_with_the_policies_that_it_may_ask_alone() -> None:
    judge = {"config": {"policy": {"model": "s3://vigorl/models/judge"}}}
    for asked, solved in ((["student"], {"student"}), ([], {"judge", "student"})):
        found = documents({**EXTERNAL, "policies": {"judge": judge}, "search": {"policies": asked}})
        assert set(services(found)["policies"]) == {"judge", "student"}
        arguments = container(found)["args"]
        assert {text.removeprefix("--solve=") for text in arguments if text.startswith("--solve=")} == solved


def test_its_settings_are_those_of_the_command() -> None:
    found = documents(SAFE)
    section = services(found)
    client = validate(ServicesConfig, section, source="services").client
    mounts = {mount["name"]: mount["mountPath"] for mount in container(found)["volumeMounts"]}
    for path in (client.tls_ca, client.tls_certificate, client.tls_key):
        assert str(path).startswith(mounts["tls"])
    result = CliRunner().invoke(cli, ["check", "--help"])
    options = {argument.split("=")[0] for argument in container(found)["args"]}
    assert options == {"--set", "--root", "--solve"}
    assert all(option in result.output for option in options)


def test_it_has_the_credentials_by_reference() -> None:
    variables = {
        entry["name"]: entry.get("valueFrom", entry.get("value")) for entry in container(documents(SAFE))["env"]
    }
    assert variables["VIGORL_AUTH__TOKEN"] == {"secretKeyRef": {"name": "tokens", "key": "token"}}
    assert variables["VIGORL_S3__SECRET_KEY"] == {"secretKeyRef": {"name": "vigorl-s3", "key": "secret-key"}}
    assert variables["VIGORL_S3__ENDPOINT"] == "s3.example.com"


def test_the_network_lets_it_through_both_ways() -> None:
    found = documents(EXTERNAL)
    (pod,) = kinds(found, "Pod")
    labels = pod["metadata"]["labels"]
    own = one(found, "NetworkPolicy", "-test")["spec"]
    assert own["podSelector"]["matchLabels"].items() <= labels.items()
    (peer,) = next(rule["to"] for rule in own["egress"] if rule["ports"] == [{"port": 50051, "protocol": "TCP"}])
    (expression,) = peer["podSelector"]["matchExpressions"]
    components = {d["metadata"]["labels"]["app.kubernetes.io/component"] for d in kinds(found, "Deployment")}
    assert set(expression["values"]) == components
    for component in components:
        rules = one(found, "NetworkPolicy", f"-{component}")["spec"]["ingress"]
        callers = [
            value
            for rule in rules
            for peer in rule["from"]
            for term in peer.get("podSelector", {}).get("matchExpressions", [])
            for value in term["values"]
        ]
        assert labels["app.kubernetes.io/component"] in callers


def test_its_image_needs_no_torch(tmp_path: Path) -> None:
    """It runs in the smallest image, which has neither torch nor pyarrow."""
    blocked = ["torch", "transformers", "pyarrow", "vllm", "deepspeed", "kubernetes", "kubeflow"]
    nobody = "127.0.0.1:1"
    section: dict[str, Any] = dict.fromkeys(("environment", "reward", "search", "evaluation"), nobody)
    section |= {"policies": {"student": nobody}, "client": {"quick_timeout_s": 0.05, "timeout_s": 0.05}}
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from vigorl_lib.cli.main import main\n"
        f"sys.argv = ['vigorl', 'check', '--set', 'services={json.dumps(section)}', '--root', sys.argv[1]]\nmain()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 1, result.stderr
    assert len(re.findall(r"^fail  ", result.stdout, re.MULTILINE)) == 9
    assert "ok    storage round trip" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.fixture
def node(s3_storage: S3Storage, s3_settings: S3Settings, tiny_folder: Path, tmp_path: Path) -> Iterator[Node]:
    """A machine on which the chart is installed, with TLS, a token, a bucket, and a model that `upload` put there."""
    authority = Authority.create("vigorl", tmp_path)
    certificate, key = authority.issue("localhost")
    keys = {"access-key": s3_settings.access_key, "secret-key": s3_settings.secret_key.get_secret_value()}
    pem = {"ca.crt": authority.path, "tls.crt": certificate, "tls.key": key}
    secrets = {
        "vigorl-s3": {name: value.encode() for name, value in keys.items()},
        "tokens": {"token": b"everybody", "state-key": b"0" * 32},
        "certificates": {name: path.read_bytes() for name, path in pem.items()},
    }
    s3_storage.upload_folder(tiny_folder, "tiny")
    found = Node(tmp_path / "node", secrets)
    try:
        yield found
    finally:
        found.stop()


def test_its_pod_passes_on_what_the_chart_installs(node: Node, s3_storage: S3Storage, s3_settings: S3Settings) -> None:
    """Manifests as rendered, containers as processes; `tests/jobs/kubelet.py` says what is not as in a cluster."""
    policy = {"engine": "transformers", "model": f"{s3_storage.uri}/tiny"}
    storage = {"endpoint": s3_settings.endpoint, "secure": False, "existingSecret": "vigorl-s3"}
    manifests = documents(
        {
            **SAFE,
            "storage": {"root": s3_storage.uri, "s3": storage},
            "policyDefaults": {"gpus": 0},
            "policies": {"student": {"config": {"policy": policy}}},
        }
    )
    for manifest in manifests:
        manifest["metadata"]["namespace"] = "team"
    deploy(node, manifests)
    (pod,) = kinds(manifests, "Pod")
    run = node.start("test", pod["spec"], pod["spec"]["containers"][0])
    assert run.process.wait(100.0) == 0, run.log
    lines = run.log.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok"] * 10, run.log
    assert lines[-1] == "10 checks, all ok"
