"""`helm upgrade` and `helm rollback` are refused by nothing: what Kubernetes lets nobody change does not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.extras import CHART, documents, helm
from tests.chart.immutable import RECORD, immutable
from tests.chart.test_all_on import ON

CHANGES: dict[str, dict[str, Any]] = {
    "another image": {"image": {"tag": "9.9.9"}},
    "more replicas": {"environment": {"replicaCount": 5}, "reward": {"resources": {"limits": {"memory": "3Gi"}}}},
    "new settings": {"search": {"config": {"server": {"drain_s": 20}}}, "networkPolicy": {"enabled": False}},
    "no certificates": {"tls": {"existingSecret": "", "mutual": False}},
}


def merged(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    both = {key: merged(base[key], top[key]) for key in base.keys() & top.keys() if isinstance(top[key], dict)}
    return {**base, **top, **both}


def accepted(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Objects of one name have the same immutable fields."""
    assert before.keys() & after.keys()
    changed = [key for key in before.keys() & after.keys() if before[key] != after[key]]
    assert not changed, f"Kubernetes refuses the upgrade of {changed}"


def test_a_release_of_the_recorded_version_can_be_upgraded_to_this_chart() -> None:
    """Volumes that are kept, selectors, names of services: what the recorded version installed is still what it was."""
    record = json.loads(RECORD.read_text())
    now = immutable(documents(ON))
    accepted(record["objects"], now)
    kept = {key for key, fields in record["objects"].items() if fields.get("keep") == "keep"}
    assert kept
    assert kept <= now.keys(), "a claim of another name would be an empty volume"
    services = {key for key in record["objects"] if key.startswith("Service/")}
    assert services <= now.keys(), "clients have the names in their settings"


@pytest.mark.parametrize("change", CHANGES)
def test_new_values_change_nothing_that_cannot_be_changed(change: str) -> None:
    accepted(immutable(documents(ON)), immutable(documents(merged(ON, CHANGES[change]))))


@pytest.mark.parametrize("bumped", [("version", "appVersion"), ("version",), ("appVersion",)], ids="+".join)
def test_another_version_of_the_chart_changes_nothing_that_cannot_be_changed(
    bumped: tuple[str, ...], tmp_path: Path
) -> None:
    """With the image's tag fixed as well, so that not even that tells the versions apart."""
    values = merged(ON, {"image": {"tag": "1.0.0"}})
    shutil.copytree(CHART, tmp_path / "vigorl")
    path = tmp_path / "vigorl" / "Chart.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **dict.fromkeys(bumped, "9.9.9")}))
    arguments = ["template", "t", str(tmp_path / "vigorl"), "--namespace", "team", "--values", "-"]
    result = helm(*arguments, stdin=json.dumps(values))
    assert result.returncode == 0, result.stderr
    after = [document for document in yaml.safe_load_all(result.stdout) if document]
    accepted(immutable(documents(values)), immutable(after))


def test_what_took_time_to_make_outlives_the_release() -> None:
    claims = [document for document in documents(ON) if document["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == 2
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_pod_gets_time_to_drain_before_it_is_killed() -> None:
    """preStop, the drain and what is left for the end fit into the grace period."""
    configs = {d["metadata"]["name"]: d["data"] for d in documents(ON) if d["kind"] == "ConfigMap"}
    ours = [d for d in documents(ON) if d["kind"] == "Deployment" and "config.json" in configs.get(_name(d), {})]
    assert ours
    for deployment in ours:
        pod = deployment["spec"]["template"]["spec"]
        leaving_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain_s = json.loads(configs[_name(deployment)]["config.json"])["server"]["drain_s"]
        assert leaving_s + drain_s < pod["terminationGracePeriodSeconds"]
        surge = deployment["spec"]["strategy"]["rollingUpdate"]
        assert surge["maxSurge"] or surge["maxUnavailable"], "a rollout could never go on"
        if deployment["spec"].get("replicas", 1) == 1 and surge["maxUnavailable"]:
            assert "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"], "only for want of a GPU"


def _name(manifest: dict[str, Any]) -> str:
    name: str = manifest["metadata"]["name"]
    return name
