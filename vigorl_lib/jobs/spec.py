"""What a job on the cluster is: which stage of which run, on how many GPUs, under which of the cluster's rules.

`JobSpec` is the one description that all manifests are made of. It holds names of secrets, never their values,
and no Kubernetes object: how it becomes one is in `vigorl_lib.jobs.manifests`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vigorl_lib.config import Section
from vigorl_lib.errors import ConfigError
from vigorl_lib.rollout.wiring import LOCAL, ServicesConfig

JOBS = Path(__file__).parent
"""Folder of the job description that comes with the package, `job.yaml`."""

Kind = Literal["sft", "grpo", "search", "evaluate"]
TRAINING: tuple[Kind, ...] = ("sft", "grpo")

COLLECTIVES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "UCX_")
"""How the names of variables begin that a job may set."""

CHART_NAME_LENGTH = 30
CHART = "vigorl"
"""Name of the chart, which is part of its objects' names."""
SERVICE_PORT, ADMIN_PORT = 50051, 50052
"""Ports of the chart's services."""

DNS_LABEL = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"


class Resources(Section):
    """Kubernetes quantities of one pod's main container; GPUs are counted apart."""

    cpu: str = Field(default="8", pattern=QUANTITY)
    """Requested; there is no limit, since throttled data loading leaves GPUs idle."""
    memory: str = Field(default="64Gi", pattern=QUANTITY)
    """Requested and the limit."""


class Elastic(Section):
    """How far a job may shrink or grow while it runs, in pods."""

    min_pods: int = Field(default=1, ge=1)
    max_pods: int = Field(default=2, ge=1)
    max_restarts: int = Field(default=10, ge=0)
    """Rendezvous again after a loss at most this often."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pods > self.max_pods:
            raise ValueError("min_pods may not be above max_pods")
        return self


class Toleration(Section):
    """Which taint of a node the pods put up with."""

    key: str = ""
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class S3(Section):
    """The bucket's endpoint, and the secret with the keys `access-key` and `secret-key`."""

    endpoint: str = Field(default="", pattern=r"^[^/\s]*$")
    """`host` or `host:port`, without a scheme."""
    secure: bool = True
    region: str = ""
    """Empty takes the storage's default."""
    secret: str = ""


class JobSpec(Section):
    """One job: one stage of one run. What its parts demand of each other is in `check`."""

    run: str = Field(pattern=DNS_LABEL, max_length=40)
    """Name of the run; the recipe's `run_id`. It fixes where checkpoints lie, so a restarted pod continues."""
    kind: Kind
    stage: str = Field(default="", pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=16)
    """Name of the stage within the run; empty takes the kind."""
    recipe: dict[str, Any]
    """The whole resolved recipe, as plain values."""
    base: str = "quickstart"
    """Recipe of the image's package that `recipe` is told against."""
    unchanged: tuple[str, ...] = ()
    """Sections that are as in `base`, so that the job's command need not repeat them."""
    release: str = Field(default="", pattern=r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", max_length=53)
    """Helm release of the chart in `namespace`; its services are used wherever the recipe names no others."""
    services: ServicesConfig = ServicesConfig()
    """Addresses in the cluster; those that are given here stand above the recipe's and the release's."""
    image: str = Field(pattern=r"^[^\s@]+(:\w[\w.-]*|(:\w[\w.-]*)?@sha256:[0-9a-f]{64})$")
    """With a tag or a digest."""
    image_pull_secret: str = ""
    namespace: str = Field(default="default", pattern=DNS_LABEL, max_length=63)
    workers: int = Field(default=0, ge=0)
    """Pods beside the first one. This, `gpus`, `resources`, `elastic` and `nccl` say nothing to search and evaluate."""
    gpus: int = Field(default=1, ge=0)
    """Whole GPUs of one training pod, and processes in it; 0 trains with one process on the CPU."""
    resources: Resources = Resources()
    shm: str = Field(default="16Gi", pattern=QUANTITY)
    """Size of /dev/shm; it counts as memory of the pod."""
    scratch: str = Field(default="100Gi", pattern=QUANTITY)
    """Size of /tmp on the node, where checkpoints and models lie on their way to and from the bucket."""
    elastic: Elastic | None = None
    shards: int = Field(default=1, ge=1)
    """Search, evaluation: pods that divide the data set; pod i works on shard i of the same run."""
    ttl_s: int = Field(default=86400, ge=0)
    """Seconds after its end when the cluster forgets the job; what it wrote stays."""
    backoff: int = Field(default=3, ge=0)
    """Restarts before the job is given up."""
    priority_class: str = ""
    queue: str = ""
    """Kueue's LocalQueue; empty runs without Kueue."""
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels of the pods, for example those that a network policy admits."""
    s3: S3 = S3()
    auth_secret: str = ""
    """Secret with the services' bearer token as `token` and, where there is one, `admin-token`."""
    tls_secret: str = ""
    """Secret with the services' authority as `ca.crt`, mounted at /etc/vigorl/tls; its name turns TLS on."""
    mtls: bool = False
    """The services demand a certificate of their clients: `tls.crt` and `tls.key` of `tls_secret`."""
    nccl: dict[str, str] = Field(default_factory=dict)
    """Environment of the collectives, for example `NCCL_SOCKET_IFNAME: eth0`."""

    @property
    def name(self) -> str:
        """The job's name in its namespace: one stage of one run is one job."""
        return f"{self.run}-{self.stage or self.kind}"

    @property
    def nodes(self) -> int:
        """Training pods at the start."""
        return 1 + self.workers

    def resolved_services(self) -> dict[str, Any]:
        """The `services` section that the job runs with: this job's above the recipe's above the release's."""
        recipe = self.recipe.get("services", {})
        # In a resolved recipe an address that nobody gave is empty or `local`.
        given = {key: value for key, value in recipe.items() if value not in ("", LOCAL)}
        job = self.services.model_dump(mode="json", exclude_unset=True)
        found: dict[str, Any] = {}
        for section in (recipe, self._release_services(), given, job):
            for key, value in section.items():
                found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
        return found

    def _release_services(self) -> dict[str, Any]:
        """The addresses, as the chart gives them, of the services that this kind of job asks."""
        if not self.release or self.kind == "sft":
            return {}
        fullname = self.release if CHART in self.release else f"{self.release}-{CHART}"
        # As the chart's template `vigorl.fullname` cuts it.
        fullname = fullname[:CHART_NAME_LENGTH].removesuffix("-")

        def target(component: str, port: int = SERVICE_PORT) -> str:
            return f"dns:///{fullname}-{component}.{self.namespace}.svc:{port}"

        if self.kind != "grpo":
            name = {"search": "search", "evaluate": "evaluation"}[self.kind]
            return {name: target(name)}
        policy = self.recipe.get("policy", "student")
        return {
            "policies": {policy: target(f"policy-{policy}")},
            "policy_admin": {policy: target(f"policy-{policy}", ADMIN_PORT)},
            "environment": target("environment"),
            "reward": target("reward"),
        }


def check(spec: JobSpec) -> None:
    """Refuse what no cluster can run, in one line. Raises ConfigError (JOB_INVALID)."""
    for problem in (*_shape(spec), *_elastic(spec), *_services(spec)):
        raise ConfigError(f"job {spec.name}: {problem}", reason="JOB_INVALID", job=spec.name)


def _shape(spec: JobSpec) -> Iterator[str]:
    if not str(spec.recipe.get("root", "")).startswith("s3://"):
        yield "--root must be s3://bucket/prefix: pods share no folder"
    if not spec.s3.endpoint:
        yield "s3.endpoint is empty, the pods would not find the bucket: set it in the job file or by --job-set"
    if spec.mtls and not spec.tls_secret:
        yield "mtls needs tls_secret"
    if strange := [name for name in spec.nccl if not name.startswith(COLLECTIVES)]:
        yield f"nccl takes {', '.join(COLLECTIVES)}, found {', '.join(strange)}"
    if spec.kind in TRAINING and spec.shards != 1:
        yield "shards are for search and evaluate; a training job has workers"


def _elastic(spec: JobSpec) -> Iterator[str]:
    if spec.elastic is None or spec.kind not in TRAINING:
        return
    if spec.kind == "grpo":
        # An elastic PyTorchJob has only Workers, all alike, and exactly one pod may hold the producer.
        yield "elastic is for sft: the rollout producer of grpo needs a master"
    if not spec.elastic.min_pods <= spec.nodes <= spec.elastic.max_pods:
        yield "1 + workers must lie between elastic.min_pods and elastic.max_pods"
    if spec.recipe.get("sft", {}).get("engine", {}).get("zero_stage", 0) > 0:
        yield "elastic needs zero_stage 0: a ZeRO checkpoint loads only into as many ranks as wrote it"


def _services(spec: JobSpec) -> Iterator[str]:
    services, policy = spec.resolved_services(), spec.recipe.get("policy", "student")
    for section in ("policies", "policy_admin") if spec.kind == "grpo" else ():
        if policy not in services.get(section, {}):
            yield (
                f"grpo needs the address of its policy {policy!r}: give the chart's release, or "
                f"--set services.{section}.{policy}=dns:///SERVICE.NAMESPACE.svc:PORT"
            )
    if spec.kind == "evaluate" and not services.get("evaluation") and policy not in services.get("policies", {}):
        yield (
            f"evaluate needs the evaluation service or the address of its policy {policy!r}: give the chart's "
            f"release, or --set services.policies.{policy}=dns:///SERVICE.NAMESPACE.svc:PORT"
        )
    if spec.kind == "search" and not services.get("search"):
        yield (
            "search needs the search service: give the chart's release, or "
            "--set services.search=dns:///SERVICE.NAMESPACE.svc:PORT"
        )
