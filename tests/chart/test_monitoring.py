"""What monitoring asks for exists: metrics and labels that a started server exports, ports and labels of the pods."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml

from tests.chart.extras import CHART, EXTERNAL, documents, kinds, one, refusal
from tests.jobs.schemas import FOLDER, crd_schema
from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment
from vigorl_lib.jobs.local import Services
from vigorl_lib.policy.base import Sampling
from vigorl_lib.policy.client import PolicyClient

METRIC = re.compile(r"\b(vigorl_\w+)\{([^}]*)\}")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
LABEL = re.compile(r"(\w+)\s*[!=]~?")
GIVEN_BY_PROMETHEUS = {"namespace", "pod", "component"}

ON: dict[str, Any] = {
    **EXTERNAL,
    "monitoring": {
        "scrape": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True},
        "dashboard": {"enabled": True},
    },
}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CHART / "dashboards" / "vigorl.json").read_text())
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CHART / "alerts" / "vigorl.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return panels + [rule["expr"] for rule in rules()]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, set[str]]:
    """Labels by metric name, from the page that Prometheus reads of a policy that has answered once."""
    folder = tmp_path_factory.mktemp("metrics")
    policy = {"name": "student", "model": str(tiny_folder)}
    with Services(folder) as services:
        services.launch("policy", "policy", {"policy": policy, "server": {"metrics_port": 0}})
        address = services.wait_ready("policy")
        asyncio.run(_ask(address))
        process = psutil.Process(services.processes["policy"].pid)
        ports = {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
        (port,) = ports - {int(address.rpartition(":")[2])}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(vigorl_\w+?)(?:\{(.*)\})? ", text, re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


async def _ask(address: str) -> None:
    client = PolicyClient(address, "student")
    prompt = Segment(Origin.PROMPT, (Message(Role.USER, ("hello",)),))
    await client.generate([prompt], seeds=[0], sampling=Sampling(max_tokens=2))
    await client.close()


def test_dashboard_and_alerts_ask_for_metrics_that_a_server_exports(exported: dict[str, set[str]]) -> None:
    asked = [found for expression in expressions() for found in METRIC.findall(expression)]
    assert len(asked) >= 20
    for name, selectors in asked:
        assert name in exported, name
        assert set(LABEL.findall(selectors)) <= exported[name] | GIVEN_BY_PROMETHEUS, name
    # A metric without braces would be asked for in all namespaces.
    for expression in expressions():
        assert len(re.findall(r"\bvigorl_\w+", expression)) == len(METRIC.findall(expression)), expression
        assert expression.count("(") == expression.count(")"), expression


def test_groupings_use_labels_that_the_metrics_have(exported: dict[str, set[str]]) -> None:
    for expression in expressions():
        named = {label.strip() for group in GROUPING.findall(expression) for label in group.split(",")}
        there = set[str]().union(*(exported[name] for name, _ in METRIC.findall(expression)))
        assert named <= there | GIVEN_BY_PROMETHEUS, expression


def test_the_dashboard_shows_every_metric(exported: dict[str, set[str]]) -> None:
    """Whoever adds a metric decides where it is seen."""
    text = " ".join(target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", []))
    shown, there = (
        {re.sub(r"_(bucket|count|sum|created|total)$", "", name) for name in names}
        for names in (re.findall(r"\bvigorl_\w+", text), exported)
    )
    assert there == shown


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("kind", "key"), [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")])
def test_a_monitor_finds_the_metrics_port_of_every_service(kind: str, key: str) -> None:
    scrape = {**ON["monitoring"]["scrape"], "kind": kind}
    found = documents({**ON, "monitoring": {**ON["monitoring"], "scrape": scrape}})
    monitor = one(found, kind, "")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"][key]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    services, deployments = kinds(found, "Service"), kinds(found, "Deployment")
    assert len(services) == len(deployments) >= 5
    for service in services:
        assert wanted <= service["metadata"]["labels"].items()
        assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    for deployment in deployments:
        pod = deployment["spec"]["template"]
        assert wanted <= pod["metadata"]["labels"].items()
        assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    (relabeling,) = endpoint["relabelings"]
    assert relabeling["targetLabel"] == "component"


def test_alerts_are_of_the_releases_namespace_and_say_what_to_do() -> None:
    found = one(documents(ON), "PrometheusRule", "")
    rendered = [rule for group in found["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rendered] == [rule["alert"] for rule in rules()]
    for rule in rendered:
        assert "NAMESPACE" not in rule["expr"]
        assert 'namespace="team"' in rule["expr"]
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert "{{ $labels.policy }}" in rendered[1]["annotations"]["summary"], "for Prometheus, not for helm"


def test_the_dashboard_comes_whole_and_nothing_is_on_by_itself() -> None:
    found = one(documents(ON), "ConfigMap", "-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["vigorl.json"]) == dashboard()
    plain = documents(EXTERNAL)
    assert not [d for d in plain if d["apiVersion"].startswith("monitoring.coreos.com")]
    assert not [d for d in kinds(plain, "ConfigMap") if d["metadata"]["name"].endswith("-dashboard")]


@pytest.mark.parametrize("kind", ["ServiceMonitor", "PodMonitor", "PrometheusRule"])
def test_what_the_prometheus_operator_reads_fits_its_schema(kind: str) -> None:
    plural = f"{kind.lower()}s"
    schema = crd_schema("monitoring.coreos.com", plural)
    if schema is None:
        pytest.skip(f"no monitoring.coreos.com_{plural}.yaml in {FOLDER}; set VIGORL_SCHEMA_DIR (docs/kubernetes.md)")
    scrape = {**ON["monitoring"]["scrape"], "kind": "ServiceMonitor" if kind == "PrometheusRule" else kind}
    found = documents({**ON, "monitoring": {**ON["monitoring"], "scrape": scrape}})
    jsonschema.Draft202012Validator(schema).validate(one(found, kind, ""))


def test_an_unknown_kind_of_monitor_is_refused() -> None:
    assert "kind" in refusal({**EXTERNAL, "monitoring": {"scrape": {"kind": "Probe"}}})
