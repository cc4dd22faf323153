"""The chart renders, refuses typos, and its manifests hold together. Real helm; no cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.tools import find_helm

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "vigorl"
SHARED = ROOT.parent / "shared" / "data"
VALUES = [None, *sorted((CHART / "ci").glob("*-values.yaml"))]


@pytest.fixture(scope="session")
def helm() -> str:
    path = find_helm()
    if path is None:
        pytest.skip("no helm on the PATH and its package cannot be downloaded")
    return str(path)


def render(helm: str, values: Path | None, *extra: str) -> subprocess.CompletedProcess[str]:
    command = [helm, "template", "t", str(CHART), *(["-f", str(values)] if values else []), *extra]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def documents(helm: str, values: Path | None, *extra: str) -> list[dict[str, Any]]:
    result = render(helm, values, *extra)
    assert result.returncode == 0, result.stderr
    return [doc for doc in yaml.safe_load_all(result.stdout) if doc]


def pods(docs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [doc["spec"]["template"]["spec"] for doc in docs if doc["kind"] == "Deployment"]
    for job in (doc for doc in docs if doc["kind"] == "PyTorchJob"):
        found += [replica["template"]["spec"] for replica in job["spec"]["pytorchReplicaSpecs"].values()]
    return found


def test_lint_is_clean(helm: str) -> None:
    result = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda v: v.stem if v else "defaults")
def test_pods_are_restricted_and_their_references_exist(helm: str, values: Path | None) -> None:
    docs = documents(helm, values)
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    assert pods(docs)
    for pod in pods(docs):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert ":latest" not in container["image"]
            assert ":" in container["image"]
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names
        if "serviceAccountName" in pod:
            assert ("ServiceAccount", pod["serviceAccountName"]) in names


@pytest.mark.parametrize("values", VALUES, ids=lambda v: v.stem if v else "defaults")
def test_services_select_their_pods_and_targets_resolve(helm: str, values: Path | None) -> None:
    docs = documents(helm, values)
    labels = [doc["spec"]["template"]["metadata"]["labels"] for doc in docs if doc["kind"] == "Deployment"]
    services = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "Service"}
    for service in services.values():
        assert service["spec"]["clusterIP"] == "None"
        wanted = service["spec"]["selector"].items()
        assert any(wanted <= pod.items() for pod in labels)
    text = json.dumps(docs)
    for word in text.replace('\\"', " ").replace('"', " ").split():
        if word.startswith(("dns:///", "--set=services.")) and "dns:///" in word:
            host = word.split("dns:///")[1].split(".")[0]
            assert host in services


@pytest.mark.parametrize(
    "mistake",
    [
        "--set=policy.student.gpus=1",
        "--set=policyDefaults.gpus=0.5",
        "--set=environment.replicas=2",
        "--set=image.tag=latest",
        "--set=storage.root=minio",
        "--set=storage.s3.endpoint=http://minio:9000",
        "--set=jobs.sft.stage=dpo",
        "--set=policies.Bad_Name.gpus=1",
    ],
)
def test_schema_refuses_a_mistake(helm: str, mistake: str) -> None:
    result = render(helm, None, mistake)
    assert result.returncode != 0
    assert "values don't meet the specifications of the schema" in result.stderr


def test_a_policy_is_a_workload_of_its_own(helm: str) -> None:
    docs = documents(helm, CHART / "ci" / "training-values.yaml")
    deployments = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "Deployment"}
    teacher = deployments["t-vigorl-policy-teacher"]["spec"]["template"]["spec"]["containers"][0]
    assert teacher["resources"]["limits"]["nvidia.com/gpu"] == 4
    config = next(d for d in docs if d["kind"] == "ConfigMap" and d["metadata"]["name"] == "t-vigorl-policy-teacher")
    assert json.loads(config["data"]["config.json"])["policy"]["name"] == "teacher"


def test_service_configs_fit_the_services_own_schema(helm: str) -> None:
    """A key in the chart that the service would refuse at start must fail here, not in a cluster."""
    from vigorl_lib.config import validate
    from vigorl_services.configs import SERVICE_CONFIGS

    checked = []
    for values in VALUES:
        for doc in documents(helm, values):
            if doc["kind"] == "ConfigMap":
                component = doc["metadata"]["labels"]["app.kubernetes.io/component"].split("-")[0]
                validate(SERVICE_CONFIGS[component], json.loads(doc["data"]["config.json"]), source=component)
                checked.append(component)
    assert set(checked) == set(SERVICE_CONFIGS)


def test_pytorchjob_fits_the_operators_schema(helm: str) -> None:
    crd_path = SHARED / "kubeflow.org_pytorchjobs.yaml"
    if not crd_path.exists():
        pytest.skip("the PyTorchJob resource definition is not beside this checkout")
    schema = yaml.safe_load(crd_path.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jobs = [d for d in documents(helm, CHART / "ci" / "training-values.yaml") if d["kind"] == "PyTorchJob"]
    assert jobs
    for job in jobs:
        jsonschema.Draft202012Validator(_closed(schema)).validate(job)
        for replica in job["spec"]["pytorchReplicaSpecs"].values():
            # Only the operator's webhook checks this, and no cluster runs here.
            assert [c["name"] for c in replica["template"]["spec"]["containers"]] == ["pytorch"]


def _closed(schema: Any) -> Any:
    """The CRD's schema with unknown fields refused and Kubernetes' own extensions made plain."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("anyOf", None)
        closed.pop("type", None)
    open_ended = "additionalProperties" in closed or closed.get("x-kubernetes-preserve-unknown-fields")
    if closed.get("type") == "object" and "properties" in closed and not open_ended:
        closed["additionalProperties"] = False
    return closed


def test_skaffold_builds_what_the_chart_installs() -> None:
    skaffold = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    for artifact in skaffold["build"]["artifacts"]:
        assert (ROOT / artifact["docker"]["dockerfile"]).is_file()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    images = {values[c]["image"] for c in ("environment", "reward", "search", "policyDefaults")}
    images.add(values["jobs"]["sft"]["image"])
    assert images == {artifact["image"] for artifact in skaffold["build"]["artifacts"]}
    for key in skaffold["manifests"]["helm"]["releases"][0]["setValueTemplates"]:
        node = values
        for part in key.split("."):
            node = node[part]
    schema_path = SHARED / "skaffold-v4beta14.json"
    if schema_path.exists():
        schema = json.loads(schema_path.read_text())
        newest = dict(skaffold, apiVersion="skaffold/v4beta14")
        jsonschema.Draft7Validator(schema).validate(newest)


def test_services_without_a_token_say_that_this_is_meant(helm: str) -> None:
    """A service refuses to listen beyond loopback without a token; the default install must still start."""
    for values, insecure in ((None, True), (CHART / "ci" / "cpu-values.yaml", False)):
        configs = [json.loads(d["data"]["config.json"]) for d in documents(helm, values) if d["kind"] == "ConfigMap"]
        assert configs
        assert all(config.get("server", {}).get("allow_insecure", False) is insecure for config in configs)


def test_a_policy_that_a_run_trains_takes_weights_on_a_port_of_its_own(helm: str) -> None:
    docs = documents(helm, CHART / "ci" / "training-values.yaml")
    services = {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "Service"}
    ports = {name: [port["name"] for port in doc["spec"]["ports"]] for name, doc in services.items()}
    assert ports["t-vigorl-policy-student"] == ["grpc", "grpc-admin"]
    assert ports["t-vigorl-policy-teacher"] == ["grpc"]
    (config,) = (
        json.loads(doc["data"]["config.json"])
        for doc in docs
        if doc["kind"] == "ConfigMap" and doc["metadata"]["name"] == "t-vigorl-policy-student"
    )
    assert config["admin"] == {"listen": "0.0.0.0:50052"}
    (job,) = (doc for doc in docs if doc["kind"] == "PyTorchJob")
    pod = job["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
    admin = [argument for argument in pod["containers"][0]["args"] if "policy_admin" in argument]
    assert admin == ["--set=services.policy_admin.student=dns:///t-vigorl-policy-student.default.svc:50052"]
