"""With every switch on: the manifests fit Kubernetes' schemas and refer only to what is there or was given."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.extras import documents, pod_specs

DIGEST = f"sha256:{'a' * 64}"
ON: dict[str, Any] = {
    "minio": {"enabled": True},
    "modelCache": {
        "enabled": True,
        "models": {
            "student": {"source": "s3://vigorl/models/student", "digest": DIGEST},
            "judge": {"source": "hf://team/judge", "revision": "b" * 40, "digest": DIGEST},
        },
        "hub": {"existingSecret": "given-hub"},
    },
    "monitoring": {
        "scrape": {"enabled": True, "kind": "PodMonitor"},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "auth": {"existingSecret": "given-tokens"},
    "tls": {"existingSecret": "given-certificates", "mutual": True},
    "policies": {
        "student": {"config": {"policy": {"model": "cache://student", "trainable_by": "demo/grpo"}}},
        "judge": {"config": {"policy": {"model": "cache://judge"}}},
    },
}


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_every_manifest_fits_the_schema_of_kubernetes(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    checked = 0
    for manifest in documents(ON):
        if not manifest["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked > 40


def test_no_name_is_taken_twice_and_all_fit() -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in documents(ON)]
    assert len(names) == len(set(names))
    assert max(len(name) for _, name in names) <= 63


def test_what_pods_refer_to_is_there_or_was_given() -> None:
    found = documents(ON)
    there = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in found}
    for pod in pod_specs(found):
        containers = [*pod["containers"], *pod.get("initContainers", [])]
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "secret" in volume:
                assert volume["secret"]["secretName"] == "given-certificates"
        for reference in (e.get("valueFrom", {}).get("secretKeyRef") for c in containers for e in c.get("env", [])):
            if reference:
                assert ("Secret", reference["name"]) in there or reference["name"].startswith("given-")
        mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_every_pod_is_under_the_default_deny_and_has_a_way_out_of_its_own() -> None:
    """A pod that no policy but the default one selects could reach nothing."""
    found = documents(ON)
    policies = [d for d in found if d["kind"] == "NetworkPolicy"]
    for maker in found:
        if maker["kind"] not in ("Pod", "Deployment", "Job"):
            continue
        labels = (maker if maker["kind"] == "Pod" else maker["spec"]["template"])["metadata"]["labels"].items()
        names = {p["metadata"]["name"] for p in policies if p["spec"]["podSelector"]["matchLabels"].items() <= labels}
        assert "t-vigorl-default-deny" in names
        assert len(names) >= 3, maker["metadata"]["name"]
