"""The examples of ways in from outside: valid, to services that the chart makes, by names that the services have."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, NAMESPACE, RELEASE, of_kind, render
from vigorl_lib.rpc.config import MAX_MESSAGE_BYTES
from vigorl_lib.rpc.gen.vigorl.environment.v1 import environment_service_pb2
from vigorl_lib.rpc.gen.vigorl.evaluation.v1 import evaluation_service_pb2
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2
from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2
from vigorl_lib.rpc.gen.vigorl.search.v1 import search_service_pb2

ROUTES = CHART / "examples" / "routes"
MODULES = {
    "search": search_service_pb2,
    "evaluation": evaluation_service_pb2,
    "environment": environment_service_pb2,
    "reward": reward_service_pb2,
    "policy-student": policy_service_pb2,
}
NGINX = "nginx.ingress.kubernetes.io"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROUTES / name).read_text()))


def of_gateway() -> list[tuple[str, str, int]]:
    """gRPC service, backend and port of every rule."""
    routes = [found for found in documents("gateway.yaml") if found["kind"] == "GRPCRoute"]
    return [
        (match["method"]["service"], backend["name"], backend["port"])
        for route in routes
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
        for backend in rule["backendRefs"]
    ]


def of_ingress() -> list[tuple[str, str, int]]:
    return [
        (
            path["path"].removeprefix("/"),
            path["backend"]["service"]["name"],
            path["backend"]["service"]["port"]["number"],
        )
        for found in documents("ingress-nginx.yaml")
        for rule in found["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]


@pytest.mark.parametrize("rules", [of_gateway(), of_ingress()], ids=["gateway", "ingress"])
def test_every_service_has_a_way_in_but_for_new_weights(rules: list[tuple[str, str, int]]) -> None:
    services = of_kind(render("cpu"), "Service")
    reached = set()
    for name, backend, port in rules:
        component = backend.removeprefix(f"{RELEASE}-")
        known = [service.full_name for service in MODULES[component].DESCRIPTOR.services_by_name.values()]
        assert name in known
        assert port in [one["port"] for one in services[backend]["spec"]["ports"]]
        reached.add(component)
    assert reached == set(MODULES)
    assert not any("Admin" in name for name, _, _ in rules)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_ingress_fits_the_schema_of_kubernetes(version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for found in documents("ingress-nginx.yaml"):
        kubernetes_validate.validate(found, version, strict=True)


def test_the_ingress_lets_through_the_largest_message_and_long_streams() -> None:
    for found in documents("ingress-nginx.yaml"):
        annotations = found["metadata"]["annotations"]
        assert annotations[f"{NGINX}/proxy-body-size"] == f"{MAX_MESSAGE_BYTES >> 20}m"
        assert annotations[f"{NGINX}/backend-protocol"] in ("GRPC", "GRPCS")
        assert all(isinstance(value, str) for value in annotations.values()), "annotations are strings"
        assert {host for entry in found["spec"]["tls"] for host in entry["hosts"]} == {
            rule["host"] for rule in found["spec"]["rules"]
        }


def test_the_parts_of_the_gateway_refer_to_each_other() -> None:
    found = documents("gateway.yaml")
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    assert {one["metadata"]["namespace"] for one in found} == {NAMESPACE}
    (gateway,) = (one for one in found if one["kind"] == "Gateway")
    listeners = {listener["name"] for listener in gateway["spec"]["listeners"]}
    backends = {backend for _, backend, _ in of_gateway()}
    for one in found:
        for parent in one["spec"].get("parentRefs", []):
            assert ("Gateway", parent["name"]) in names
            assert parent["sectionName"] in listeners
        for target in one["spec"].get("targetRefs", []):
            assert (target["kind"], target["name"]) in names or target["name"] in backends
    (tls,) = (one for one in found if one["kind"] == "BackendTLSPolicy")
    assert {target["name"] for target in tls["spec"]["targetRefs"]} == backends
