"""The model cache: jobs fill it with pinned models, policies wait for them and read them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.chart.extras import EXTERNAL, Document, documents, kinds, one, refusal
from vigorl_lib.cli.main import cli
from vigorl_lib.models.fetch import digest_of

S3 = {"source": "s3://vigorl/models/student", "digest": f"sha256:{'a' * 64}"}
HUB = {"source": "hf://Qwen/Qwen2.5-VL-7B-Instruct", "revision": "b" * 40, "digest": f"sha256:{'c' * 64}"}
CACHED = {"config": {"policy": {"model": "cache://student"}}}


def values(models: dict[str, Any] | None = None, **cache: Any) -> dict[str, Any]:
    cache = {"enabled": True, "models": {"student": S3, "big": HUB} if models is None else models, **cache}
    return {**EXTERNAL, "modelCache": cache, "policies": {"student": CACHED}}


def policy_pod(found: list[Document]) -> Document:
    pod: Document = one(found, "Deployment", "-policy-student")["spec"]["template"]["spec"]
    return pod


def fetches(found: list[Document]) -> dict[str, Document]:
    """Containers that fetch, by the source that they fetch from."""
    containers = [job["spec"]["template"]["spec"]["containers"][0] for job in kinds(found, "Job")]
    return {container["args"][0]: container for container in containers}


def test_it_is_off_by_itself() -> None:
    found = documents(EXTERNAL)
    assert not kinds(found, "Job")
    assert not kinds(found, "PersistentVolumeClaim")
    assert "initContainers" not in policy_pod(found)


def test_a_policy_reads_the_folder_that_a_job_fills() -> None:
    found = documents(values())
    config = json.loads(one(found, "ConfigMap", "-policy-student")["data"]["config.json"])
    folder = config["policy"]["model"]
    job = fetches(found)[S3["source"]]
    assert job["args"] == [S3["source"], folder, f"--digest={S3['digest']}"]
    assert {"name": "models", "mountPath": "/models"} in job["volumeMounts"]
    pod = policy_pod(found)
    (wait,) = pod["initContainers"]
    assert wait["args"][:2] == [folder, f"--digest={S3['digest']}"]
    for container in (wait, pod["containers"][0]):
        assert {"name": "models", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    claims = [volume["persistentVolumeClaim"] for volume in pod["volumes"] if volume["name"] == "models"]
    assert claims == [{"claimName": "t-vigorl-models"}]


def test_another_digest_is_another_folder_and_another_job() -> None:
    changed = {**S3, "digest": f"sha256:{'d' * 64}"}
    before, after = documents(values({"student": S3})), documents(values({"student": changed}))
    folders = [fetches(found)[S3["source"]]["args"][1] for found in (before, after)]
    assert folders[0] != folders[1]
    assert kinds(before, "Job")[0]["metadata"]["name"] != kinds(after, "Job")[0]["metadata"]["name"]
    checksums = [
        one(found, "Deployment", "-policy-student")["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        for found in (before, after)
    ]
    assert checksums[0] != checksums[1], "the policy is rolled over to the other folder"


def test_only_the_job_of_a_hub_model_may_ask_the_hub() -> None:
    found = documents(values(hub={"existingSecret": "hf"}))
    hub, bucket = fetches(found)[HUB["source"]], fetches(found)[S3["source"]]
    assert f"--revision={HUB['revision']}" in hub["args"]
    variables = {entry["name"]: entry for entry in hub["env"]}
    assert variables["HF_HUB_OFFLINE"]["value"] == "0"
    assert variables["HF_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "hf", "key": "token"}
    assert not [entry for entry in bucket["env"] if entry["name"].startswith("HF_")]
    assert {entry["name"] for entry in bucket["env"]} >= {"VIGORL_S3__ENDPOINT", "VIGORL_S3__SECRET_KEY"}

    def ports(given: list[Document]) -> list[int]:
        rules = one(given, "NetworkPolicy", "-model-fetch")["spec"]["egress"]
        return [port["port"] for rule in rules for port in rule["ports"]]

    assert ports(found) == [53, 53, 443, 443]
    assert ports(documents(values({"student": S3}))) == [53, 53, 443]


def test_claim_and_jobs_are_named_within_kubernetes_limits_and_the_claim_stays() -> None:
    name = "sixteen-letters1"
    found = documents({**values({name: S3}), "policies": {}, "fullnameOverride": "v" * 30})
    (job,) = kinds(found, "Job")
    assert len(job["metadata"]["name"]) <= 63
    (claim,) = kinds(documents(values()), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    own = documents(values(existingClaim="disk"))
    assert not kinds(own, "PersistentVolumeClaim")
    assert '"claimName": "disk"' in json.dumps(policy_pod(own))


def test_its_containers_are_restricted() -> None:
    found = documents(values())
    jobs = [job["spec"]["template"]["spec"] for job in kinds(found, "Job")]
    for pod in (*jobs, policy_pod(found)):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_commands_of_job_and_policy_work_together(tmp_path: Path) -> None:
    """The very arguments of the manifests, with the claim at another place."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    model = {"source": str(source), "digest": digest_of(str(source))}
    found = documents(values({"student": model}))
    job, (wait,) = fetches(found)[str(source)], policy_pod(found)["initContainers"]
    for container in (job, wait):
        assert container["command"][:3] == ["python", "-m", "vigorl_lib.cli.main"]
        arguments = [argument.replace("/models/", f"{tmp_path}/models/") for argument in container["args"]]
        command = [sys.executable, *container["command"][1:], *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert result.returncode == 0, result.stderr
        assert model["digest"] in result.stdout


def test_a_hub_models_arguments_are_those_of_the_command() -> None:
    job = fetches(documents(values()))[HUB["source"]]
    result = CliRunner().invoke(cli, ["models", "fetch", "--help"])
    options = [argument.split("=")[0] for argument in job["args"] if argument.startswith("--")]
    assert all(option in result.output for option in options)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, "modelCache.models.student (there: none)"),
        ({"student": {**S3, "digest": "sha256:12"}}, "digest"),
        ({"student": {"source": S3["source"]}}, "digest"),
        ({"student": {**S3, "revision": "b" * 40}}, "has no revisions"),
        ({"student": {**HUB, "revision": "main"}}, "revision"),
        ({"student": {k: v for k, v in HUB.items() if k != "revision"}}, "comes from the Hub: set its revision"),
        ({"student": {**S3, "source": "https://example.com/model"}}, "source"),
        ({"a-name-of-seventeen": S3}, "a-name-of-seventeen"),
    ],
)
def test_mistakes_are_refused(models: dict[str, Any], words: str) -> None:
    assert words in refusal(values(models))


def test_a_model_of_the_cache_without_the_cache_is_refused() -> None:
    assert "set modelCache.enabled=true" in refusal({**EXTERNAL, "policies": {"student": CACHED}})
