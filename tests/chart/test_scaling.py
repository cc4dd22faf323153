"""How many pods there are: disruption budgets and autoscalers, each behind its switch."""

from __future__ import annotations

import re

import pytest

from tests.chart.render import CI, NAMESPACE, RELEASE, of_kind, render, services
from vigorl_lib.policy import metrics

STUDENT = f"{RELEASE}-policy-student"


@pytest.mark.parametrize("values", CI)
def test_autoscalers_and_budgets_name_workloads_that_are_there(values: str) -> None:
    manifests = render(values)
    deployments = of_kind(manifests, "Deployment")
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for name, found in of_kind(manifests, kind).items():
            assert found["spec"]["scaleTargetRef"]["name"] == name
            assert name in deployments
            assert "replicas" not in deployments[name]["spec"]
    assert {f"{RELEASE}-{name}" for name in services(manifests)} <= set(of_kind(manifests, "PodDisruptionBudget"))


def test_nothing_scales_by_itself_by_default() -> None:
    manifests = render("cpu")
    assert not of_kind(manifests, "HorizontalPodAutoscaler")
    assert not of_kind(manifests, "ScaledObject")
    assert services(manifests)["environment"]["spec"]["replicas"] == 1


def test_a_cpu_service_follows_its_cpu() -> None:
    spec = of_kind(render("gpu-multi"), "HorizontalPodAutoscaler")[f"{RELEASE}-environment"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (4, 16)
    (metric,) = spec["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}


def test_a_policy_follows_its_samples_in_flight_by_an_hpa() -> None:
    manifests = render("gpu-multi", "--set=policies.student.autoscaling.kind=hpa")
    assert not of_kind(manifests, "ScaledObject")
    spec = of_kind(manifests, "HorizontalPodAutoscaler")[STUDENT]["spec"]
    (metric,) = spec["metrics"]
    assert metric["pods"]["metric"]["name"] == exported_gauge()
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "64"}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600


def test_a_policy_follows_its_samples_in_flight_by_keda() -> None:
    manifests = render("gpu-multi")
    assert STUDENT not in of_kind(manifests, "HorizontalPodAutoscaler")
    spec = of_kind(manifests, "ScaledObject")[STUDENT]["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 8)
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"]["threshold"] == "64"
    query = re.fullmatch(r"sum\((\w+)\{(.*)\}\)", trigger["metadata"]["query"])
    assert query is not None
    assert query[1] == exported_gauge()
    assert query[2] == f'namespace="{NAMESPACE}",policy="student"'


def exported_gauge() -> str:
    """The name of the gauge that a policy really exports."""
    (family,) = metrics._IN_FLIGHT.collect()
    assert "policy" in metrics._IN_FLIGHT._labelnames
    return str(family.name)


def test_a_budget_may_be_a_share_and_may_be_off() -> None:
    manifests = render("cpu", "--set=search.pdb.maxUnavailable=50%", "--set=reward.pdb.enabled=false")
    budgets = of_kind(manifests, "PodDisruptionBudget")
    assert budgets[f"{RELEASE}-search"]["spec"]["maxUnavailable"] == "50%"
    assert budgets[f"{RELEASE}-environment"]["spec"]["maxUnavailable"] == 1
    assert f"{RELEASE}-reward" not in budgets
