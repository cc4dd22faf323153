"""What the chart grants to `vigorl jobs` is what it calls, and the names on both sides are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, RELEASE, Manifest, helm, of_kind, render
from tests.chart.test_manifests import EXTERNAL_SECRETS
from vigorl_lib.jobs.spec import JOBS

NAME = f"{RELEASE}-jobs"


def granted(manifests: tuple[Manifest, ...]) -> set[tuple[str, str]]:
    """Verb and plural, as the rules of the Role say."""
    rules = of_kind(manifests, "Role")[NAME]["rules"]
    return {(verb, plural) for rule in rules for plural in rule["resources"] for verb in rule["verbs"]}


def called() -> set[tuple[str, str]]:
    """Verb and plural of each request of a whole life of every kind of job, as an emulated API server saw them."""
    pytest.importorskip("kubernetes")
    pytest.importorskip("kmock")
    from kubernetes import client

    from tests.jobs.apiserver import pod, serve
    from tests.jobs.test_manifests import spec
    from vigorl_lib.jobs.cluster import Cluster
    from vigorl_lib.jobs.explain import ClusterError
    from vigorl_lib.jobs.manifests import manifests

    with serve() as (server, api):
        cluster = Cluster(api, "default")
        runs = [manifests(spec("sft")), manifests(spec("grpo"), api="trainjob"), manifests(spec("search"))]
        for objects in runs:
            name = objects[-1]["metadata"]["name"]
            client.CoreV1Api(api).create_namespaced_pod("default", pod(f"{name}-0", name, "pytorch"))
        server.rules.calls.clear()
        for objects in runs:
            name = objects[-1]["metadata"]["name"]
            cluster.submit(objects)
            cluster.jobs()
            cluster.status(name)
            changes = cluster.watch(name)
            next(changes)
            list(cluster.logs(name))
            cluster.cancel(name)
            # The watch that begins here is told to begin again, and then finds no job.
            server.rules.expired_watches = 1
            with pytest.raises(ClusterError, match="no job"):
                next(changes)
        return {(verb, plural) for verb, plural, _ in server.rules.calls}


def test_the_role_grants_what_vigorl_jobs_calls_and_nothing_more() -> None:
    """Except reading secrets, which it does without (tests/jobs shows that)."""
    found = {("get", "pods/log") if call == ("get", "pods") else call for call in called()}
    assert granted(render("cpu")) == found - {("get", "secrets")}


def test_the_right_is_of_one_namespace_and_bound_to_the_account_and_to_whom_the_values_name() -> None:
    manifests = render("external-s3")
    assert not of_kind(manifests, "ClusterRole")
    binding = of_kind(manifests, "RoleBinding")[NAME]
    assert binding["roleRef"]["name"] == NAME
    assert NAME in of_kind(manifests, "ServiceAccount")
    assert [(s["kind"], s["name"]) for s in binding["subjects"]] == [("ServiceAccount", NAME), ("Group", "researchers")]


def test_no_rights_where_they_are_switched_off() -> None:
    manifests = render("cpu", "--set=jobs.enabled=false")
    assert not of_kind(manifests, "Role")
    assert not of_kind(manifests, "RoleBinding")
    assert NAME not in of_kind(manifests, "ServiceAccount")


def test_the_chart_renders_no_job_of_ours() -> None:
    assert not {"PyTorchJob", "TrainJob"} & {found["kind"] for found in render("gpu-multi")}


def test_the_default_image_of_jobs_is_the_services_build_for_gpus() -> None:
    image = yaml.safe_load((JOBS / "job.yaml").read_text())["image"]
    search = of_kind(render("cpu"), "Deployment")[f"{RELEASE}-search"]["spec"]["template"]["spec"]["containers"][0]
    assert image == search["image"].replace("/search:", "/trainer:") + "-cuda"


@pytest.mark.parametrize("release", ["vigorl", "prod"])
@pytest.mark.parametrize("kind", ["grpo", "search", "evaluate"])
def test_the_addresses_of_a_jobs_release_are_services_of_that_release(kind: str, release: str) -> None:
    from tests.jobs.test_manifests import spec

    job = spec(kind, release=release, namespace="team", services={})
    manifests = render("cpu", f"--set=fullnameOverride={'' if release == 'vigorl' else 'prod-vigorl'}")
    offered = {
        f"dns:///{name}.team.svc:{port['port']}"
        for name, service in of_kind(manifests, "Service").items()
        for port in service["spec"]["ports"]
    }
    targets = [text for node in _texts(job.resolved_services()) for text in node.split(",") if text.startswith("dns:")]
    assert targets
    assert set(targets) <= offered


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else ():
        yield from _texts(child)


@pytest.mark.parametrize("path", sorted((CHART / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_names_secrets_and_services_as_the_chart_does(path: Path) -> None:
    text = path.read_text()
    services = of_kind(render("mtls"), "Service")
    for host in re.findall(r"dns:///([a-z0-9-]+)\.", text):
        assert host in services
    for secret, key in re.findall(r"secretKeyRef:\s+name: (\S+)\s+key: (\S+)", text):
        assert key in EXTERNAL_SECRETS[secret]


@pytest.mark.parametrize(
    "release", ["vigorl", "lab", "a-very-long-release-name-of-some-team", "team-with-vigorl-in-the-name-of-it"]
)
def test_a_job_finds_the_services_of_a_release_by_the_names_that_the_chart_gives(release: str) -> None:
    from tests.jobs.test_manifests import services_of

    result = helm("template", release, str(CHART), "-f", str(CHART / "ci" / "cpu-values.yaml"))
    assert result.returncode == 0, result.stderr
    documents = tuple(document for document in yaml.safe_load_all(result.stdout) if document)
    named = set()
    for kind in ("grpo", "search", "evaluate"):
        named |= set(re.findall(r"dns:///([^.]+)\.", str(services_of(kind, release=release))))
    assert len(named) >= 5
    assert named <= of_kind(documents, "Service").keys()
