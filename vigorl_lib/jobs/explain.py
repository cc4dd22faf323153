"""What a refusal of the API server means for whoever submits a job, and the command that mends it.

Texts only: which calls are made is in `vigorl_lib.jobs.cluster`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vigorl_lib.errors import VigorlError


class ClusterError(VigorlError, RuntimeError):
    """The cluster refused, cannot be reached or lacks something."""

    category = "cluster"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of job as the API server serves it."""

    kind: str
    group: str
    version: str
    plural: str
    install: str
    """What brings this kind to a cluster."""

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PYTORCHJOB = Resource(
    "PyTorchJob",
    "kubeflow.org",
    "v1",
    "pytorchjobs",
    "kubectl apply --server-side -k 'github.com/kubeflow/trainer.git/manifests/overlays/standalone?ref=v1.9.4' "
    "(or use --api trainjob where Trainer v2 is installed)",
)
TRAINJOB = Resource(
    "TrainJob",
    "trainer.kubeflow.org",
    "v1alpha1",
    "trainjobs",
    "helm install kubeflow-trainer oci://ghcr.io/kubeflow/charts/kubeflow-trainer --version 2.3.0 "
    "-n kubeflow-system --create-namespace (or use --api pytorchjob where training-operator is installed)",
)
RUNTIME = Resource("TrainingRuntime", "trainer.kubeflow.org", "v1alpha1", "trainingruntimes", TRAINJOB.install)
JOB = Resource("Job", "batch", "v1", "jobs", "a Kubernetes of 1.31 or later")


RIGHTS = {
    "pytorchjobs.kubeflow.org": ("get", "list", "watch", "create", "delete"),
    "trainjobs.trainer.kubeflow.org": ("get", "list", "watch", "create", "delete"),
    "trainingruntimes.trainer.kubeflow.org": ("get", "create", "patch", "delete"),
    "jobs.batch": ("get", "list", "watch", "create", "delete"),
    "pods": ("list",),
    "pods/log": ("get",),
    "secrets": ("get",),
}
"""All that `vigorl jobs` asks of an API server. Secrets are only looked for by name, and it works without."""


def explain(status: int, body: str | None, *, verb: str, resource: Resource, namespace: str, name: str) -> ClusterError:
    """A response with an error status as a ClusterError; `verb` is Kubernetes' own, such as `create`."""
    told = _status(body)
    message = str(told.get("message") or body or "").strip()
    facts = {"status_code": status, "kind": resource.kind, "namespace": namespace, "name": name}
    reason, text = _meaning(status, told, message, verb, resource, namespace, name)
    return ClusterError(text, reason=reason, infrastructure=status >= 500 or status == 429, **facts)


def unreachable(server: str, detail: object) -> ClusterError:
    """No answer at all."""
    return ClusterError(
        f"no answer from the cluster at {server}: {detail}; see `kubectl cluster-info`, or name another with --context",
        reason="CLUSTER_UNREACHABLE",
        infrastructure=True,
    )


def missing_secret(secret: str, namespace: str, keys: str) -> ClusterError:
    literals = " ".join(f"--from-file={key}=FILE" for key in keys.split())
    return ClusterError(
        f"no secret {secret!r} in namespace {namespace!r}: its pods would wait for it for ever; make it with "
        f"`kubectl -n {namespace} create secret generic {secret} {literals}`",
        reason="SECRET_MISSING",
        secret=secret,
        namespace=namespace,
    )


def run_exists(kind: str, name: str, namespace: str) -> ClusterError:
    return ClusterError(
        f"{kind} {name!r} is already in namespace {namespace!r}, and two jobs would write the same checkpoints; "
        f"watch it with `vigorl jobs -n {namespace} status {name}`, or end it with "
        f"`vigorl jobs -n {namespace} cancel {name}` and submit again: it continues from its last checkpoint",
        reason="RUN_EXISTS",
        name=name,
        namespace=namespace,
    )


def _meaning(
    status: int, told: dict[str, Any], message: str, verb: str, resource: Resource, namespace: str, name: str
) -> tuple[str, str]:
    details = told.get("details") or {}
    if status == 401:
        return "CLUSTER_UNAUTHENTICATED", (
            "the cluster does not know these credentials; log in again (`kubectl auth whoami` shows who you are)"
        )
    if status == 403 and "exceeded quota" in message:
        return "CLUSTER_QUOTA", (
            f"the quota of namespace {namespace!r} is used up: {message}; see "
            f"`kubectl -n {namespace} describe resourcequota`, ask for less with --job-set, or cancel a job"
        )
    if status == 403 and "namespace" in message and "terminated" in message:
        return "NAMESPACE_TERMINATING", f"namespace {namespace!r} is being deleted; wait, then make it again"
    if status == 403 and told.get("reason") == "Forbidden" and "cannot" not in message and message:
        return "CLUSTER_POLICY", f"an admission policy of namespace {namespace!r} refused {name!r}: {message}"
    if status == 403:
        role, verbs = f"vigorl-{resource.plural.replace('/', '-')}", ",".join(RIGHTS[str(resource)])
        return "CLUSTER_FORBIDDEN", (
            f"you may not {verb} {resource} in namespace {namespace!r}; an administrator grants it with "
            f"`kubectl -n {namespace} create role {role} --verb={verbs} --resource={resource}` and "
            f"`kubectl -n {namespace} create rolebinding {role} "
            f"--role={role} --user=YOU`, or names you under jobs.subjects of "
            f"the chart; `kubectl auth can-i {verb} {resource} -n {namespace}` checks it"
        )
    if status == 404 and details.get("kind") == "namespaces":
        return "NAMESPACE_MISSING", f"no namespace {namespace!r}; make it with `kubectl create namespace {namespace}`"
    if status == 404 and verb == "create":
        return "CRD_MISSING", f"the cluster has no {resource.kind} ({resource}); install it with {resource.install}"
    if status == 404:
        return "JOB_UNKNOWN", (
            f"no {resource.kind} {name!r} in namespace {namespace!r}; `vigorl jobs -n {namespace} list` shows all"
        )
    if status in (400, 422):
        return "MANIFEST_REFUSED", f"the cluster refused {resource.kind} {name!r}: {message}"
    return "CLUSTER_FAILED", f"the cluster answered {status} to {verb} {resource} {name!r}: {message}"


def _status(body: str | None) -> dict[str, Any]:
    """The server's Status object; empty where something else answered, as for a path that is not served."""
    try:
        told = json.loads(body or "")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
