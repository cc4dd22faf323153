"""Who reaches whom: the network policies, read as a cluster's network would."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.render import CI, RELEASE, Manifest, of_kind, render, services
from vigorl_lib.jobs.pods import labels as job_labels

TRAINER = {"app.kubernetes.io/name": "vigorl", "app.kubernetes.io/component": "trainer"}


def policies(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    return {name: found["spec"] for name, found in of_kind(manifests, "NetworkPolicy").items()}


def labels_of(manifests: tuple[Manifest, ...], name: str) -> dict[str, str]:
    found: dict[str, str] = services(manifests)[name]["spec"]["template"]["metadata"]["labels"]
    return found


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def allowed(
    manifests: tuple[Manifest, ...], direction: str, own: dict[str, str], other: dict[str, str], port: int
) -> bool:
    """Whether pods with these labels, both of this namespace, may exchange packets on a TCP port."""
    side = {"ingress": "from", "egress": "to"}[direction]
    return any(
        any(
            entry["port"] == port and entry["protocol"] == "TCP"
            for entry in rule.get("ports", [{"port": port, "protocol": "TCP"}])
        )
        and any(
            "podSelector" in peer and "namespaceSelector" not in peer and matches(peer["podSelector"], other)
            for peer in rule.get(side, [])
        )
        for spec in policies(manifests).values()
        if matches(spec["podSelector"], own)
        for rule in spec.get(direction, [])
    )


def reaches(manifests: tuple[Manifest, ...], caller: str, called: str, port: int = 50051) -> bool:
    own, other = labels_of(manifests, caller), labels_of(manifests, called)
    return allowed(manifests, "egress", own, other, port) and allowed(manifests, "ingress", other, own, port)


@pytest.mark.parametrize("values", CI)
def test_all_pods_of_the_release_are_denied_both_ways_unless_told_otherwise(values: str) -> None:
    deny = policies(render(values))[f"{RELEASE}-default-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    for name in services(render(values)):
        assert matches(deny["podSelector"], labels_of(render(values), name))


@pytest.mark.parametrize("values", CI)
def test_services_reach_what_their_settings_name_and_nothing_else_of_the_release(values: str) -> None:
    from tests.chart.test_config import configs

    manifests = render(values)
    for caller, config in configs(manifests).items():
        asked = config.get("services", {})
        targets = str([asked.get("policies"), asked.get("environment"), asked.get("reward"), config.get("judge")])
        for called in services(manifests):
            assert reaches(manifests, caller, called) is (f"dns:///{RELEASE}-{called}." in targets)
            assert not reaches(manifests, caller, called, 50052)


@pytest.mark.parametrize("values", ["cpu", "gpu-single", "gpu-multi", "mtls"])
def test_pods_of_jobs_reach_every_service_and_the_weights_of_what_they_train(values: str) -> None:
    manifests = render(values)
    for name in services(manifests):
        own = labels_of(manifests, name)
        assert allowed(manifests, "ingress", own, TRAINER, 50051)
        assert allowed(manifests, "ingress", own, TRAINER, 50052) is (name == "policy-student")
        assert not allowed(manifests, "ingress", own, {"app.kubernetes.io/name": "stranger"}, 50051)


def test_a_job_as_it_is_rendered_is_a_trainer() -> None:
    from tests.jobs.test_manifests import spec

    assert job_labels(spec("grpo")).items() >= TRAINER.items()


def test_names_are_looked_up_in_kube_system_only() -> None:
    for name, spec in policies(render("cpu")).items():
        rules = [rule for rule in spec.get("egress", []) if {"port": 53, "protocol": "UDP"} in rule["ports"]]
        if name.removeprefix(f"{RELEASE}-") in services(render("cpu")):
            (rule,) = rules
            assert {"port": 53, "protocol": "TCP"} in rule["ports"]
            assert rule["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}


@pytest.mark.parametrize(
    ("values", "flags", "port", "to"),
    [
        ("cpu", (), 9000, None),
        ("mtls", (), 443, None),
        ("mtls", ("--set=storage.s3.secure=false",), 80, None),
        ("external-s3", (), 443, [{"ipBlock": {"cidr": "198.51.100.0/24"}}]),
        (
            "external-s3",
            ("--set=networkPolicy.storage.ports={8333}",),
            8333,
            [{"ipBlock": {"cidr": "198.51.100.0/24"}}],
        ),
    ],
)
def test_storage_is_reached_on_the_port_of_its_endpoint(
    values: str, flags: tuple[str, ...], port: int, to: list[Any] | None
) -> None:
    rules = policies(render(values, *flags))[f"{RELEASE}-environment"]["egress"]
    (rule,) = (rule for rule in rules if rule["ports"] == [{"port": port, "protocol": "TCP"}])
    assert rule.get("to") == to


def test_only_a_policy_behind_an_endpoint_leaves_the_cluster_for_it() -> None:
    found = policies(render("gpu-single"))
    rule = {"ports": [{"port": 443, "protocol": "TCP"}], "to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}
    assert [name for name, spec in found.items() if rule in spec.get("egress", [])] == [f"{RELEASE}-policy-judge"]


def test_metrics_are_read_from_the_monitoring_namespace() -> None:
    for name in services(render("cpu")):
        rules = policies(render("cpu"))[f"{RELEASE}-{name}"]["ingress"]
        (rule,) = (rule for rule in rules if rule["ports"][0]["port"] == 9090)
        assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    flags = ("--set-json=networkPolicy.metrics=[]",)
    assert "'port': 9090" not in str(policies(render("cpu", *flags)))


def test_clients_of_ones_own_may_call_but_not_give_weights() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    for rule in policies(render("gpu-multi"))[f"{RELEASE}-policy-student"]["ingress"]:
        assert (peer in rule["from"]) is (rule["ports"][0]["port"] == 50051)


def test_no_policies_where_they_are_switched_off() -> None:
    assert not policies(render("cpu", "--set=networkPolicy.enabled=false"))


def test_a_policy_that_takes_weights_from_a_learner_and_the_learner_meet_on_any_port() -> None:
    switch = "--set=policies.student.config.policy.vllm.weight_transfer=nccl"
    for flags, meet in (((), False), ((switch,), True)):
        manifests = render("gpu-single", *flags)
        own = labels_of(manifests, "policy-student")
        for direction in ("ingress", "egress"):
            assert allowed(manifests, direction, own, TRAINER, 41234) is meet
            assert not allowed(manifests, direction, own, labels_of(manifests, "search"), 41234)
