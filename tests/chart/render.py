"""What helm renders of the chart, as parsed manifests; each combination of values is rendered once a test run."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import find_helm

CHART = Path(__file__).resolve().parents[2] / "charts" / "vigorl"
CI = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
"""Names of the values files that every manifest test goes through."""
RELEASE, NAMESPACE = "vigorl", "team"

Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One run of helm; the test is skipped where there is none."""
    program = find_helm()
    if program is None:
        pytest.skip("no helm on the PATH and its package cannot be downloaded")
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def template(values: str | None, *flags: str) -> subprocess.CompletedProcess[str]:
    """`helm template` with a values file of ci/ and further flags, such as `--set=policyDefaults.gpus=2`."""
    files = [] if values is None else ["-f", str(CHART / "ci" / f"{values}-values.yaml")]
    return helm("template", RELEASE, str(CHART), "-n", NAMESPACE, *files, *flags)


@functools.cache
def _rendered(values: str | None, flags: tuple[str, ...]) -> tuple[Manifest, ...]:
    result = template(values, *flags)
    assert result.returncode == 0, result.stderr
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(document for document in yaml.load_all(result.stdout, Loader=loader) if document)


def render(values: str | None, *flags: str) -> tuple[Manifest, ...]:
    """The manifests, which the caller leaves as they are."""
    return _rendered(values, flags)


def refused(values: str | None, *flags: str) -> str:
    """What helm says of values that the chart refuses."""
    result = template(values, *flags)
    assert result.returncode != 0, "the chart took it"
    return result.stderr


def of_kind(manifests: tuple[Manifest, ...], kind: str) -> dict[str, Manifest]:
    """The manifests of one kind by name."""
    return {found["metadata"]["name"]: found for found in manifests if found["kind"] == kind}


def services(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """The Deployments of our own services by component: not that of an object store for development."""
    return {
        name.removeprefix(f"{RELEASE}-"): found
        for name, found in of_kind(manifests, "Deployment").items()
        if component(found) != "minio"
    }


def component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pod_of(manifest: Manifest) -> Manifest:
    """The pod of a Deployment, a Job or a Pod."""
    pod: Manifest = manifest["spec"] if manifest["kind"] == "Pod" else manifest["spec"]["template"]["spec"]
    return pod


def pods(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Every pod that the manifests make, by `Kind/name` of what makes it."""
    makers = [found for found in manifests if found["kind"] in ("Deployment", "StatefulSet", "Job", "Pod")]
    return {f"{maker['kind']}/{maker['metadata']['name']}": pod_of(maker) for maker in makers}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a manifest."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)
