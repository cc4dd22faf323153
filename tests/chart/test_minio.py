"""The optional MinIO: what it is made of, that everything else finds it, and that its data outlives the release."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.chart.extras import CHART, EXTERNAL, documents, kinds, one, pod_specs, refusal

ON: dict[str, Any] = {"minio": {"enabled": True}, "storage": {"root": "s3://runs/team"}}


def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def test_it_is_off_by_itself_and_leaves_nothing_behind() -> None:
    assert "minio" not in json.dumps(documents(EXTERNAL)).replace("minio.enabled", "")


def test_every_pod_finds_the_endpoint_the_credentials_and_the_root() -> None:
    found = documents(ON)
    services = [d for d in kinds(found, "Deployment") if not d["metadata"]["name"].endswith("-minio")]
    pods = [d["spec"]["template"]["spec"] for d in services] + [d["spec"] for d in kinds(found, "Pod")]
    assert len(pods) >= 6
    for pod in pods:
        values = environment(pod["containers"][0])
        assert values["VIGORL_S3__ENDPOINT"] == "t-vigorl-minio.team.svc:9000"
        assert values["VIGORL_S3__SECURE"] == "false"
        assert values["VIGORL_S3__ACCESS_KEY"] == {"secretKeyRef": {"name": "t-vigorl-minio", "key": "access-key"}}
        assert values["VIGORL_S3__SECRET_KEY"] == {"secretKeyRef": {"name": "t-vigorl-minio", "key": "secret-key"}}
    service = one(found, "Service", "-minio")
    assert [port["port"] for port in service["spec"]["ports"]] == [9000]
    selected = one(found, "Deployment", "-minio")["spec"]["template"]["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= selected


def test_the_secret_has_every_key_that_is_asked_for_and_is_never_empty() -> None:
    found = documents(ON)
    secret = one(found, "Secret", "-minio")["data"]
    asked = [
        entry["valueFrom"]["secretKeyRef"]
        for pod in pod_specs(found)
        for container in pod["containers"]
        for entry in container["env"]
        if "secretKeyRef" in entry.get("valueFrom", {})
    ]
    keys = {reference["key"] for reference in asked if reference["name"] == "t-vigorl-minio"}
    assert keys == set(secret) == {"root-user", "root-password", "access-key", "secret-key"}
    assert all(secret.values())


def test_a_secret_of_ones_own_takes_the_place_of_the_made_one() -> None:
    found = documents({**ON, "minio": {"enabled": True, "existingSecret": "mine"}})
    assert not kinds(found, "Secret")
    assert "mine" in json.dumps(one(found, "Deployment", "-search"))
    assert '"t-vigorl-minio", "key"' not in json.dumps(found)


def test_the_claim_stays_when_the_release_goes() -> None:
    claim = one(documents(ON), "PersistentVolumeClaim", "-minio")
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    persistence = {"existingClaim": "disk"}
    own = documents({**ON, "minio": {"enabled": True, "persistence": persistence}})
    assert not kinds(own, "PersistentVolumeClaim")
    volumes = one(own, "Deployment", "-minio")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "disk"}} in volumes


def test_its_pods_are_restricted_and_one_writer_has_the_volume() -> None:
    found = documents(ON)
    deployment = one(found, "Deployment", "-minio")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    (job,) = kinds(found, "Job")
    for pod in (deployment["spec"]["template"]["spec"], job["spec"]["template"]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["image"].startswith("quay.io/minio/")
        assert "latest" not in container["image"]


def test_the_user_may_do_what_the_services_do_in_this_bucket_only() -> None:
    data = one(documents(ON), "ConfigMap", "-minio")["data"]
    statements = json.loads(data["policy.json"])["Statement"]
    resources = {resource for statement in statements for resource in statement["Resource"]}
    assert resources == {"arn:aws:s3:::runs", "arn:aws:s3:::runs/*"}
    actions = {action for statement in statements for action in statement["Action"]}
    assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= actions
    assert not [action for action in actions if "*" in action or "Policy" in action]


def run_setup(folder: Path, mc: str) -> tuple[int, list[str]]:
    """Exit code of the set-up script, and what it asked of `mc`, whose body is given."""
    program, log = folder / "mc", folder / "log"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{mc}\n')
    program.chmod(0o755)
    settings = dict.fromkeys(("ROOT_USER", "ROOT_PASSWORD", "SECRET_KEY"), "x y")
    settings |= {"ENDPOINT": "http://minio:9000", "BUCKET": "runs", "POLICY": "t-vigorl", "ACCESS_KEY": "vigorl"}
    variables = {**os.environ, **settings, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["sh", str(CHART / "minio" / "setup.sh")]
    result = subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=20)
    return result.returncode, log.read_text().splitlines()


def test_the_setup_makes_bucket_user_and_policy_in_order(tmp_path: Path) -> None:
    """Against a program that only takes notes: no MinIO runs here."""
    code, asked = run_setup(tmp_path, "exit 0")
    assert code == 0
    assert [line.split(" store")[0] for line in asked] == [
        "--quiet alias set",
        "mb --ignore-existing",
        "admin user add",
        "admin policy create",
        "admin policy attach",
    ]


@pytest.mark.parametrize(("shown", "code"), [("PolicyName: t-vigorl", 0), ("PolicyName: other", 1)])
def test_a_policy_that_is_attached_already_is_no_failure(tmp_path: Path, shown: str, code: int) -> None:
    answers = f'case "$*" in *attach*) exit 1 ;; *info*) echo "{shown}" ;; esac'
    assert run_setup(tmp_path, answers)[0] == code


def test_the_setup_job_has_another_name_when_its_pod_is_another() -> None:
    """A job's pod cannot be changed, so an upgrade of a job of the same name would be refused."""
    image = {"repository": "quay.io/minio/mc", "tag": "RELEASE.2025-07-21T05-28-08Z"}
    names = {
        kinds(documents(values), "Job")[0]["metadata"]["name"]
        for values in (ON, {**ON, "minio": {"enabled": True, "clientImage": image}})
    }
    assert len(names) == 2


def test_only_the_release_and_its_jobs_reach_it() -> None:
    found = documents(ON)
    policy = one(found, "NetworkPolicy", "-minio")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy, "it calls nobody"
    (rule,) = policy["ingress"]
    selectors = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
    assert {"app.kubernetes.io/name": "vigorl", "app.kubernetes.io/instance": "t"} in selectors
    assert {"app.kubernetes.io/name": "vigorl", "app.kubernetes.io/component": "trainer"} in selectors
    clients = one(found, "NetworkPolicy", "-minio-clients")["spec"]
    reached = clients["egress"][0]["to"][0]["podSelector"]["matchExpressions"][0]["values"]
    assert reached == ["minio"]
    open_ = documents({**ON, "networkPolicy": {"enabled": False}})
    assert not kinds(open_, "NetworkPolicy")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({**ON, "storage": {"root": "/runs", "existingClaim": "disk"}}, "needs an s3:// storage.root"),
        ({**EXTERNAL, "minio": {"enabled": True}}, "leave them empty, or disable minio"),
        ({**ON, "minio": {"enabled": True, "persistance": {}}}, "persistance"),
        ({**ON, "minio": {"enabled": True, "image": {"tag": "latest"}}}, "tag"),
    ],
)
def test_mistakes_are_refused(values: dict[str, Any], words: str) -> None:
    assert words in refusal(values)
