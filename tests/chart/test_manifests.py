"""The rendered manifests as a whole: they fit Kubernetes' schemas, select each other, and refer to what exists."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.render import (
    CHART,
    CI,
    NAMESPACE,
    RELEASE,
    Manifest,
    component,
    containers,
    helm,
    of_kind,
    pods,
    render,
    services,
    template,
    walk,
)
from tests.jobs.schemas import FOLDER, crd_schema

OLDEST, NEWEST = "1.31", "1.37"
"""Of Kubernetes, as in the chart's kubeVersion and as far as kubernetes-validate knows them."""
FOREIGN = {"keda.sh", "monitoring.coreos.com"}
"""API groups that kubernetes-validate has no schemas of."""
OURS = {"environment", "reward", "search", "evaluation", "policy-student"}
EXTERNAL_SECRETS = {
    "vigorl-s3": {"access-key", "secret-key"},
    "vigorl-auth": {"token", "admin-token", "state-key"},
    "vigorl-judge": {"api-key"},
    "vigorl-tls": set(),
}
"""Secrets that docs/kubernetes.md has made by hand, and their keys; TLS is mounted whole."""


@pytest.mark.parametrize("values", [None, *CI])
def test_lint_is_clean(values: str | None) -> None:
    files = [] if values is None else ["-f", str(CHART / "ci" / f"{values}-values.yaml")]
    result = helm("lint", "--strict", str(CHART), *files)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("values", CI)
def test_every_manifest_fits_the_schema_of_kubernetes(values: str, version: str) -> None:
    check_schemas(render(values), version)


def check_schemas(manifests: tuple[Manifest, ...], version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for manifest in manifests:
        if manifest["apiVersion"].split("/")[0] not in FOREIGN:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_scaled_object_fits_the_schema_of_keda() -> None:
    schema = crd_schema("keda.sh", "scaledobjects")
    if schema is None:
        pytest.skip(f"no keda.sh_scaledobjects.yaml in {FOLDER}; set VIGORL_SCHEMA_DIR (docs/kubernetes.md)")
    for manifest in of_kind(render("gpu-multi"), "ScaledObject").values():
        jsonschema.Draft202012Validator(schema).validate(manifest)


COMPANIONS = {
    "tls.mutual": ("--set=tls.existingSecret=vigorl-tls",),
    "minio.enabled": ("--set=storage.s3.endpoint=", "--set=storage.s3.existingSecret="),
}
"""What must be set beside a switch that is on."""


def switches(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, bool]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from switches(value, f"{path}{key}.")
        elif isinstance(value, bool):
            yield path + key, value


@pytest.mark.parametrize(("switch", "value"), list(switches(yaml.safe_load((CHART / "values.yaml").read_text()))))
def test_every_switch_can_be_turned(switch: str, value: bool) -> None:
    def turned(to: bool) -> tuple[Manifest, ...]:
        return render("cpu", f"--set={switch}={json.dumps(to)}", *(COMPANIONS.get(switch, ()) if to else ()))

    assert turned(not value) != turned(value)
    check_schemas(turned(not value), OLDEST)


def test_the_chart_refuses_a_kubernetes_older_than_what_it_was_checked_against() -> None:
    assert template("cpu", f"--kube-version={OLDEST}").returncode == 0
    assert "incompatible with Kubernetes" in template("cpu", "--kube-version=1.30").stderr


@pytest.mark.parametrize("values", CI)
def test_no_two_manifests_share_a_kind_and_name(values: str) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in render(values)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("values", CI)
def test_each_component_is_a_workload_with_service_settings_and_account_of_its_name(values: str) -> None:
    manifests = render(values)
    found = services(manifests)
    assert set(found) >= OURS
    for kind in ("Service", "ConfigMap", "ServiceAccount", "PodDisruptionBudget"):
        assert {f"{RELEASE}-{name}" for name in found} <= set(of_kind(manifests, kind))


@pytest.mark.parametrize("values", CI)
def test_selectors_match_the_pods_of_their_own_component_and_no_others(values: str) -> None:
    manifests = render(values)
    labels = {c: d["spec"]["template"]["metadata"]["labels"] for c, d in services(manifests).items()}
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        for manifest in of_kind(manifests, kind).values():
            selector = manifest["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert "app.kubernetes.io/version" not in wanted
            assert [c for c, own in labels.items() if wanted.items() <= own.items()] == [component(manifest)]


@pytest.mark.parametrize("values", CI)
def test_services_are_headless_and_their_ports_are_ports_of_the_container(values: str) -> None:
    manifests = render(values)
    for name, deployment in services(manifests).items():
        spec = of_kind(manifests, "Service")[f"{RELEASE}-{name}"]["spec"]
        assert spec["clusterIP"] == "None"
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        offered = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {port["targetPort"]: port["port"] for port in spec["ports"]} == offered
        assert {p["appProtocol"] for p in spec["ports"] if p["name"].startswith("grpc")} == {"grpc"}


@pytest.mark.parametrize("values", CI)
def test_what_pods_refer_to_is_in_the_release_or_a_documented_secret(values: str) -> None:
    manifests = render(values)
    accounts, maps = (set(of_kind(manifests, kind)) for kind in ("ServiceAccount", "ConfigMap"))
    for pod in pods(manifests).values():
        assert pod.get("serviceAccountName") in {None, *accounts}
        for volume in pod["volumes"]:
            assert volume.get("configMap", {}).get("name") in {None, *maps}
            assert volume.get("secret", {}).get("secretName") in {None, *EXTERNAL_SECRETS}
        for node in walk(pod):
            if isinstance(reference := node.get("secretKeyRef"), dict):
                assert reference["key"] in EXTERNAL_SECRETS[reference["name"]]


@pytest.mark.parametrize("values", CI)
def test_every_mount_has_its_volume_and_every_volume_a_mount(values: str) -> None:
    for pod in pods(render(values)).values():
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("values", CI)
def test_names_stay_dns_labels_with_the_longest_release_and_policy(values: str) -> None:
    longest = "p" * 24
    policy = f"--set=policies.{longest}.config.policy.model=/m"
    result = template(values, "--set=fullnameOverride=" + "r" * 60, "--set=image.tag=v1", policy)
    assert result.returncode == 0, result.stderr
    assert f"-policy-{longest}" in result.stdout
    for line in result.stdout.splitlines():
        if line.startswith("  name: "):
            assert len(line.removeprefix("  name: ")) <= 63


def test_images_are_those_that_the_build_tags() -> None:
    project = tomllib.loads((CHART.parents[1] / "pyproject.toml").read_text())["project"]
    images = {pod["containers"][0]["image"] for pod in pods(render("cpu")).values()}
    assert {image.rsplit(":", 1)[1] for image in images} == {project["version"]}
    folders = {image.rsplit(":", 1)[0].removeprefix("ghcr.io/vigorl/") for image in images}
    assert all((CHART.parents[1] / "services" / name / "Dockerfile").is_file() for name in folders)


@pytest.mark.parametrize(
    ("flags", "image"),
    [
        (["--set=image.registry=registry.example.com/team"], "registry.example.com/team/search:0.1.0.dev0"),
        (["--set=image.tag=v7"], "ghcr.io/vigorl/search:v7"),
        (["--set=search.image.tag=v8", "--set=image.tag=v7"], "ghcr.io/vigorl/search:v8"),
        (["--set=search.image.repository=localhost:5000/s"], "localhost:5000/s:0.1.0.dev0"),
        (["--set=search.image.digest=sha256:" + "a" * 64], "ghcr.io/vigorl/search@sha256:" + "a" * 64),
    ],
)
def test_an_image_is_named_by_registry_repository_and_tag_or_digest(flags: list[str], image: str) -> None:
    (container,) = services(render("cpu", *flags))["search"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image


@pytest.mark.parametrize("off", ["environment", "reward", "search", "evaluation", "policies.student"])
def test_a_component_that_is_off_leaves_nothing_behind(off: str) -> None:
    name = off.replace("policies.", "policy-")
    left = render("cpu", f"--set={off}.enabled=false", "--set=tests.enabled=false")
    assert f"{RELEASE}-{name}" not in {found["metadata"]["name"] for found in left}
    assert f"dns:///{RELEASE}-{name}." not in str(left)


def test_a_default_policy_goes_away_by_null() -> None:
    flags = ("--set=policies.student=null", "--set=policies.teacher.config.policy.model=/models/teacher")
    assert {name for name in services(render("cpu", *flags)) if name.startswith("policy-")} == {"policy-teacher"}


def by_component(manifests: tuple[Manifest, ...], path: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, deployment in services(manifests).items():
        node: Any = deployment["spec"]
        for part in path:
            node = node.get(part, {})
        found[name] = node
    return found


def test_a_policys_values_stand_above_the_policies_and_those_above_all_components() -> None:
    flags = (
        "--set=componentDefaults.terminationGracePeriodSeconds=20",
        "--set=policyDefaults.terminationGracePeriodSeconds=30",
        "--set=policies.student.terminationGracePeriodSeconds=40",
        "--set=policies.teacher.config.policy.model=/models/teacher",
        "--set=search.terminationGracePeriodSeconds=50",
    )
    found = by_component(render("cpu", *flags), ["template", "spec", "terminationGracePeriodSeconds"])
    assert {name: found[name] for name in ("reward", "search", "policy-teacher", "policy-student")} == {
        "reward": 20,
        "search": 50,
        "policy-teacher": 30,
        "policy-student": 40,
    }


def test_a_zero_or_false_in_a_policy_stands_above_its_default() -> None:
    flags = ("--set=policyDefaults.gpus=1", "--set=policies.student.gpus=0", "--set=policies.student.pdb.enabled=false")
    manifests = render("cpu", *flags)
    (container,) = services(manifests)["policy-student"]["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert f"{RELEASE}-policy-student" not in of_kind(manifests, "PodDisruptionBudget")


def test_everything_is_in_the_namespace_of_the_release() -> None:
    assert {found["metadata"].get("namespace") for found in render("cpu")} == {None}
    (subject,) = of_kind(render("cpu"), "RoleBinding")[f"{RELEASE}-jobs"]["subjects"]
    assert subject["namespace"] == NAMESPACE
