"""The pods of a job: command, environment, mounts and security, alike under every operator.

Nothing here knows PyTorchJob, TrainJob or Job: each of them takes a pod template from here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vigorl_lib.config import validate
from vigorl_lib.jobs.spec import JobSpec
from vigorl_lib.rollout.wiring import ServicesConfig

Manifest = dict[str, Any]

MANAGER = "vigorl-jobs"
JOB_LABEL = "vigorl.dev/job"
PYTHON = ["python", "-m"]
CLIENT_COMMANDS = {"search": "search", "evaluate": "eval"}
"""Kind of job → command of the CLI."""
UNSHARED_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
"""Without it rank 0's launcher keeps the address of the first round from those that join a later one (torch 2.13)."""
SHARD = "$(JOB_COMPLETION_INDEX)"
"""The kubelet puts the shard's number here; the Job controller sets the variable in every container."""

TLS = "/etc/vigorl/tls"
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def labels(spec: JobSpec) -> dict[str, str]:
    """Of the job and its pods; whatever the operator, `vigorl jobs` finds a job's pods by `vigorl.dev/job`."""
    return {
        **spec.labels,
        "app.kubernetes.io/managed-by": MANAGER,
        JOB_LABEL: spec.name,
        "vigorl.dev/run": spec.run,
        "vigorl.dev/kind": spec.kind,
        "app.kubernetes.io/name": "vigorl",
        "app.kubernetes.io/component": "trainer",
    }


def pod_template(spec: JobSpec, containers: list[Manifest], *, restart: str | None = None) -> Manifest:
    """A restricted pod without access to the API server, with the job's placement."""
    volumes: list[Manifest] = [
        {"name": "tmp", "emptyDir": {"sizeLimit": spec.scratch}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": spec.shm}},
    ]
    if spec.tls_secret:
        keys = ("ca.crt", "tls.crt", "tls.key") if spec.mtls else ("ca.crt",)
        items = [{"key": key, "path": key} for key in keys]
        volumes.append({"name": "tls", "secret": {"secretName": spec.tls_secret, "items": items}})
    pod: Manifest = {
        "automountServiceAccountToken": False,
        # Service links would put VIGORL_* variables of the cluster's making among the settings.
        "enableServiceLinks": False,
        "securityContext": RESTRICTED,
        "containers": containers,
        "volumes": volumes,
        "imagePullSecrets": [{"name": spec.image_pull_secret}] if spec.image_pull_secret else None,
        "priorityClassName": spec.priority_class,
        "nodeSelector": spec.node_selector,
        "tolerations": [t.model_dump(exclude_defaults=True) for t in spec.tolerations],
        "restartPolicy": restart,
    }
    return {
        "metadata": {"labels": labels(spec)},
        "spec": {key: value for key, value in pod.items() if value or value is False},
    }


def rejoining(spec: JobSpec) -> list[str]:
    """Flags of torchrun for pods that are restarted one by one while the others go on.

    The static rendezvous that training-operator's environment asks for takes no pod back: one that is restarted finds
    the old round's answers in the store and waits for ranks that are gone. Here it begins a further round, in which
    all ranks resume from the last checkpoint. The kubelet puts in the operator's variables.
    """
    endpoint = "$(MASTER_ADDR):$(MASTER_PORT)"
    found = {"backend": "c10d", "endpoint": endpoint, "id": spec.name}
    return [*(f"--rdzv-{key}={value}" for key, value in found.items()), f"--max-restarts={spec.backoff}"]


def trainer(spec: JobSpec, name: str, flags: Sequence[str] = ()) -> Manifest:
    """The container of the ranks, launched by torchrun with `flags`; all else is in the environment by the operator."""
    resources: Manifest = {
        "requests": {"cpu": spec.resources.cpu, "memory": spec.resources.memory},
        "limits": {"memory": spec.resources.memory},
    }
    if spec.gpus:
        resources["limits"]["nvidia.com/gpu"] = str(spec.gpus)
    arguments = [spec.kind, f"--stage={spec.stage or spec.kind}", *recipe_arguments(spec)]
    variables = {**spec.nccl, **({UNSHARED_STORE: "1"} if spec.workers or spec.elastic else {})}
    collectives = [{"name": key, "value": value} for key, value in sorted(variables.items())]
    command = ["torchrun", *flags, "-m", "vigorl_services.trainer"]
    return _container(spec, name, command, arguments, resources, collectives)


def producer(spec: JobSpec) -> Manifest:
    """The container that rolls out for GRPO: one a run, without GPU and torch; it ends with its last step.

    No native sidecar: that would be started again after its last step, and killed when the learner ends.
    """
    resources = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    arguments = ["producer", f"--stage={spec.stage or spec.kind}", *recipe_arguments(spec)]
    return _container(spec, "producer", [*PYTHON, "vigorl_services.trainer"], arguments, resources, [])


def client(spec: JobSpec) -> Manifest:
    """The container of a search or an evaluation: the CLI, which asks the services; it holds no model."""
    resources = {"requests": {"cpu": "2", "memory": "8Gi"}, "limits": {"memory": "16Gi"}}
    arguments = [CLIENT_COMMANDS[spec.kind], *recipe_arguments(spec)]
    if spec.shards > 1:
        arguments.append(f"--shard={SHARD}/{spec.shards}")
    return _container(spec, spec.kind, [*PYTHON, "vigorl_lib.cli.main"], arguments, resources, [])


def recipe_arguments(spec: JobSpec) -> list[str]:
    """The recipe as a name of the package and one `--set` for each section that differs from it.

    Arguments need no second object with a life of its own, and cannot change under a running job.
    """
    changed = {key: value for key, value in spec.recipe.items() if key not in spec.unchanged}
    changed |= {"root": spec.recipe["root"], "run_id": spec.run}
    services = spec.resolved_services()
    if spec.tls_secret:
        services["client"] = {**services.get("client", {}), "tls_ca": f"{TLS}/ca.crt"}
        if spec.mtls:
            services["client"] |= {"tls_certificate": f"{TLS}/tls.crt", "tls_key": f"{TLS}/tls.key"}
    if services != spec.recipe.get("services") or "services" in changed:
        changed["services"] = validate(ServicesConfig, services, source="services").model_dump(
            mode="json", exclude_defaults=True
        )
    # The kubelet takes $(NAME) for a variable; $$ is its escape.
    values = [f"--set={key}={json.dumps(value).replace('$(', '$$(')}" for key, value in changed.items()]
    return [f"--recipe={spec.base}", *values]


def _container(
    spec: JobSpec,
    name: str,
    command: list[str],
    arguments: list[str],
    resources: Manifest,
    environment: list[Manifest],
) -> Manifest:
    mounts: list[Manifest] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    if spec.tls_secret:
        mounts.append({"name": "tls", "mountPath": TLS, "readOnly": True})
    return {
        "name": name,
        "image": spec.image,
        "command": command,
        "args": arguments,
        "env": [*_credentials(spec), *environment],
        "resources": resources,
        "securityContext": CONFINED,
        "volumeMounts": mounts,
    }


def _credentials(spec: JobSpec) -> list[Manifest]:
    found: list[Manifest] = []
    if spec.s3.endpoint:
        found += [
            {"name": "VIGORL_S3__ENDPOINT", "value": spec.s3.endpoint},
            {"name": "VIGORL_S3__SECURE", "value": json.dumps(spec.s3.secure)},
        ]
    if spec.s3.region:
        found.append({"name": "VIGORL_S3__REGION", "value": spec.s3.region})
    if spec.s3.secret:
        found += [
            _from_secret("VIGORL_S3__ACCESS_KEY", spec.s3.secret, "access-key"),
            _from_secret("VIGORL_S3__SECRET_KEY", spec.s3.secret, "secret-key"),
        ]
    if spec.auth_secret:
        found += [
            _from_secret("VIGORL_AUTH__TOKEN", spec.auth_secret, "token"),
            _from_secret("VIGORL_AUTH__ADMIN_TOKEN", spec.auth_secret, "admin-token", optional=True),
        ]
    return found


def _from_secret(variable: str, secret: str, key: str, *, optional: bool = False) -> Manifest:
    reference: Manifest = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}
