"""A job description as Kubernetes manifests: pure functions, no cluster, no client.

SFT and GRPO are a PyTorchJob (`kubeflow.org/v1`) or, for clusters with Trainer v2 only, a TrainingRuntime with
its TrainJob; search and evaluation are an indexed Job. All take their pods from `vigorl_lib.jobs.pods`.
"""

from __future__ import annotations

from typing import Any, Literal

from vigorl_lib.errors import ConfigError
from vigorl_lib.jobs import pods
from vigorl_lib.jobs.pods import Manifest
from vigorl_lib.jobs.spec import TRAINING, JobSpec, check

Api = Literal["pytorchjob", "trainjob"]

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
STEP_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"


def manifests(spec: JobSpec, *, api: Api = "pytorchjob") -> list[Manifest]:
    """All that one job needs, in the order in which it must be created; the last one is the job itself.

    Raises ConfigError: JOB_INVALID for what no cluster can run, JOB_ELASTIC for an elastic TrainJob.
    """
    if spec.kind not in TRAINING:
        return [indexed_job(spec)]
    return [pytorch_job(spec)] if api == "pytorchjob" else [training_runtime(spec), train_job(spec)]


def pytorch_job(spec: JobSpec) -> Manifest:
    """SFT or GRPO for training-operator v1. Raises ConfigError (JOB_KIND, JOB_INVALID).

    An elastic job has only Workers: the operator points their rendezvous at the first of them.
    """
    _require(spec, TRAINING)
    # The operator's webhook refuses a container of any other name than `pytorch`.
    # An elastic job has its rendezvous from the operator.
    flags = pods.rejoining(spec) if spec.workers and spec.elastic is None else []
    trainer = pods.trainer(spec, "pytorch", flags)
    worker = pods.pod_template(spec, [trainer])
    run_policy: Manifest = {
        "cleanPodPolicy": "Running",
        "backoffLimit": spec.backoff,
        "ttlSecondsAfterFinished": spec.ttl_s,
    }
    if spec.priority_class:
        run_policy["schedulingPolicy"] = {"priorityClass": spec.priority_class}
    body: Manifest = {"nprocPerNode": str(max(1, spec.gpus)), "runPolicy": run_policy}
    if spec.elastic is not None:
        body["elasticPolicy"] = {
            "rdzvBackend": "c10d",
            "minReplicas": spec.elastic.min_pods,
            "maxReplicas": spec.elastic.max_pods,
            "maxRestarts": spec.elastic.max_restarts,
        }
        replicas = {"Worker": _replica(spec.nodes, worker)}
    else:
        beside = [pods.producer(spec)] if spec.kind == "grpo" else []
        master = pods.pod_template(spec, [trainer, *beside])
        replicas = {"Master": _replica(1, master)}
        if spec.workers:
            replicas["Worker"] = _replica(spec.workers, worker)
    body["pytorchReplicaSpecs"] = replicas
    return _object("kubeflow.org/v1", "PyTorchJob", spec, body)


def training_runtime(spec: JobSpec) -> Manifest:
    """The pods of a TrainJob of the same name: a job of the ranks and, for GRPO, one of the producer.

    Trainer v2 keeps pod templates in runtimes; one that belongs to the job needs no administrator's.
    """
    _require(spec, TRAINING)
    if spec.elastic is not None:
        raise ConfigError("Trainer v2 has no elastic policy; render a pytorchjob", reason="JOB_ELASTIC")
    node = pods.pod_template(spec, [pods.trainer(spec, "node")], restart="Never")
    jobs = [_replicated("node", node, labels={STEP_LABEL: "trainer"})]
    if spec.kind == "grpo":
        template = pods.pod_template(spec, [pods.producer(spec)], restart="OnFailure")
        jobs.append(_replicated("producer", template, labels={}, backoff=spec.backoff))
    body = {
        "mlPolicy": {"numNodes": spec.nodes, "torch": {}},
        "template": {
            "spec": {
                "replicatedJobs": jobs,
                "failurePolicy": {"maxRestarts": spec.backoff},
                "ttlSecondsAfterFinished": spec.ttl_s,
            }
        },
    }
    return _object("trainer.kubeflow.org/v1alpha1", "TrainingRuntime", spec, body, queue=False)


def train_job(spec: JobSpec) -> Manifest:
    """SFT or GRPO for Trainer v2, on the runtime of `training_runtime`. Raises ConfigError (JOB_KIND, JOB_INVALID)."""
    _require(spec, TRAINING)
    container = pods.trainer(spec, "node")
    body = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": spec.name},
        "trainer": {
            "numNodes": spec.nodes,
            "numProcPerNode": max(1, spec.gpus),
            **{key: container[key] for key in ("image", "command", "args", "env")},
            "resourcesPerNode": container["resources"],
        },
    }
    return _object("trainer.kubeflow.org/v1alpha1", "TrainJob", spec, body)


def indexed_job(spec: JobSpec) -> Manifest:
    """Search or evaluation, one index a shard. Raises ConfigError (JOB_KIND, JOB_INVALID)."""
    _require(spec, ("search", "evaluate"))
    body = {
        "completionMode": "Indexed",
        "completions": spec.shards,
        "parallelism": spec.shards,
        # Each shard by its own count, so that one bad shard does not end the others.
        "backoffLimitPerIndex": spec.backoff,
        "ttlSecondsAfterFinished": spec.ttl_s,
        "template": pods.pod_template(spec, [pods.client(spec)], restart="Never"),
    }
    return _object("batch/v1", "Job", spec, body)


def _object(version: str, kind: str, spec: JobSpec, body: Manifest, *, queue: bool = True) -> Manifest:
    marks = pods.labels(spec)
    if spec.queue and queue:
        marks[QUEUE_LABEL] = spec.queue
    metadata: dict[str, Any] = {"name": spec.name, "namespace": spec.namespace, "labels": marks}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": body}


def _replica(count: int, template: Manifest) -> Manifest:
    return {"replicas": count, "restartPolicy": "OnFailure", "template": template}


def _replicated(name: str, template: Manifest, *, labels: dict[str, str], backoff: int = 0) -> Manifest:
    return {
        "name": name,
        "template": {"metadata": {"labels": labels}, "spec": {"backoffLimit": backoff, "template": template}},
    }


def _require(spec: JobSpec, kinds: tuple[str, ...]) -> None:
    check(spec)
    if spec.kind not in kinds:
        raise ConfigError(f"this manifest is for {' and '.join(kinds)}, found {spec.kind}", reason="JOB_KIND")
