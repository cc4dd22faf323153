"""Mistakes that people make first: helm refuses each of them before anything reaches a cluster, and says which."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from tests.chart.render import CHART, refused, walk
from tests.chart.schema import SCHEMA as SCHEMA_FILE
from tests.chart.schema import schema

A, B = "a" * 64, "b" * 63

MISTAKES = {
    "misspelt top-level key": ("--set=policy.student.gpus=1", "'policy' not allowed"),
    "misspelt key of a component": ("--set=environment.replicas=2", "'replicas' not allowed"),
    "misspelt key of a policy": ("--set=policies.student.gpu=1", "'gpu' not allowed"),
    "misspelt key of a policy's settings": (
        "--set=policies.student.config.policy.modle=x",
        "at '/policies/student/config/policy': additional properties 'modle' not allowed",
    ),
    "misspelt section of a service's settings": ("--set=reward.config.jugde.policy=x", "'jugde' not allowed"),
    "unknown engine": ("--set=policies.student.config.policy.engine=vlm", "/policies/student/config/policy/engine"),
    "tensor parallel size of zero": (
        "--set=policies.student.config.policy.vllm.tensor_parallel_size=0",
        "minimum: got 0, want 1",
    ),
    "misspelt key of an image": ("--set=search.image.name=x", "'name' not allowed"),
    "misspelt key of the network policy": ("--set=networkPolicy.allowFrom=x", "'allowFrom' not allowed"),
    "fractional GPU": ("--set-json=policyDefaults.gpus=0.5", "got number, want integer"),
    "GPUs as text": ("--set-string=policyDefaults.gpus=1", "got string, want integer"),
    "GPUs among the resources": (
        r"--set=policyDefaults.resources.limits.nvidia\.com/gpu=1",
        "/policyDefaults/resources/limits",
    ),
    "negative replicas": ("--set=environment.replicaCount=-1", "minimum: got -1, want 0"),
    "the tag latest": ("--set=image.tag=latest", "/image/tag"),
    "bad digest": (f"--set=search.image.digest=sha256:{B}", "/search/image/digest"),
    "digest without its algorithm": (f"--set=search.image.digest={A}", "/search/image/digest"),
    "digest within the repository": (f"--set=search.image.repository=search@sha256:{A}", "/search/image/repository"),
    "root that is no URI": ("--set=storage.root=minio", "/storage/root"),
    "endpoint with a scheme": ("--set=storage.s3.endpoint=http://minio:9000", "/storage/s3/endpoint"),
    "upper case in a policy's name": (
        "--set=policies.Bad.config.policy.model=/m",
        "at '/policies': additional properties 'Bad' not allowed",
    ),
    "policy's name too long": (
        "--set=policies." + "p" * 25 + ".config.policy.model=/m",
        "at '/policies': additional properties",
    ),
    "memory in a strange unit": ("--set=search.resources.limits.memory=4GB", "/search/resources/limits/memory"),
    "selector label overwritten": (r"--set=search.podLabels.app\.kubernetes\.io/name=x", "/search/podLabels"),
    "key of an endpoint for a service without one": (
        "--set=environment.openai.existingSecret=x",
        "/environment/openai",
    ),
    "queue depth of a service without a queue": ("--set=reward.autoscaling.kind=keda", "/reward/autoscaling/kind"),
    "training job as a value": ("--set=jobs.sft.enabled=true", "'sft' not allowed"),
    "peer that is no peer": ('--set-json=networkPolicy.clients=[{"cidr":"0.0.0.0/0"}]', "'cidr' not allowed"),
}


@pytest.mark.parametrize(("flag", "told"), MISTAKES.values(), ids=MISTAKES.keys())
def test_the_schema_refuses(flag: str, told: str) -> None:
    message = refused("cpu", flag)
    assert "values don't meet the specifications of the schema" in message
    assert told in message


CONTRADICTIONS = {
    "s3 root without endpoint": (
        ["--set=storage.s3.endpoint="],
        "storage.root is s3://vigorl, and storage.s3.endpoint is empty",
    ),
    "folder without a volume": (["--set=storage.root=/data"], "set storage.existingClaim"),
    "unknown policy": (
        ["--set=search.policies={student,techer}"],
        'search.policies names "techer", which is no enabled policy; policies has: student',
    ),
    "judge that nobody declared": (
        ["--set=reward.config.judge.policy=juge"],
        'reward.config.judge asks the policy "juge", which is no enabled policy; policies has: student',
    ),
    "disabled policy": (
        ["--set=policies.student.enabled=false", "--set=evaluation.policies={student}"],
        'evaluation.policies names "student", which is no enabled policy',
    ),
    "tag and digest": (
        ["--set=search.image.tag=v1", f"--set=search.image.digest=sha256:{A}"],
        "search.image has a tag and a digest",
    ),
    "policy without a model": (["--set=policies.judge.gpus=0"], "policies.judge.config.policy.model is empty"),
    "policy under another name": (
        ["--set=policies.student.config.policy.name=teacher"],
        'policies.student.config.policy.name is "teacher"',
    ),
    "fewer GPUs than the engine takes": (
        [
            "--set=policies.student.gpus=2",
            "--set=image.tag=v1",
            "--set=policies.student.config.policy.vllm.tensor_parallel_size=4",
        ],
        "tensor_parallel_size is 4, and its gpus are 2",
    ),
    "GPUs for the image of CPUs": (
        ["--set=policies.student.gpus=1"],
        "policies.student has GPUs or engine vllm, and the default image is a build for CPUs",
    ),
    "vLLM from the image without it": (
        ["--set=policies.student.config.policy.engine=vllm"],
        "set its image.tag, for example to 0.1.0.dev0-cuda",
    ),
    "mutual TLS without certificates": (["--set=tls.mutual=true"], "tls.mutual needs tls.existingSecret"),
    "limits that cross": (
        ["--set=search.autoscaling.enabled=true", "--set=search.autoscaling.minReplicas=5"],
        "search.autoscaling: maxReplicas 4 is below minReplicas 5",
    ),
    "KEDA without Prometheus": (
        ["--set=policies.student.autoscaling.enabled=true", "--set=policies.student.autoscaling.kind=keda"],
        "set autoscaling.prometheusAddress",
    ),
    "endpoint that the network policy shuts off": (
        ["--set=policies.student.config.policy.engine=openai"],
        "policies.student has engine openai, and networkPolicy.openai is empty",
    ),
    "drain that the kubelet cuts off": (
        ["--set=search.config.server.drain_s=100"],
        "search.config.server.drain_s 100 is cut off",
    ),
}


@pytest.mark.parametrize(("flags", "told"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_the_chart_refuses_in_a_sentence(flags: list[str], told: str) -> None:
    assert told in refused("cpu", *flags)


SCHEMA = json.loads(SCHEMA_FILE.read_text())


def test_every_level_of_the_values_that_has_keys_refuses_others() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    levels = [node for node in walk(SCHEMA) if node.get("type") == "object" and "properties" in node]
    assert levels
    # Resources and labels have keys of the cluster's and the user's making.
    assert not [node for node in levels if node.get("additionalProperties") in (None, True)]


def test_the_settings_of_the_schema_are_those_of_the_services() -> None:
    assert SCHEMA_FILE.read_text() == schema(), "stale: run `python -m tests.chart.schema`"


def test_another_validator_than_helms_takes_the_defaults_and_refuses_a_fractional_gpu() -> None:
    """Helm 3 and 4 bring different ones, so the schema must not lean on either."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    validator = jsonschema.Draft7Validator(SCHEMA)
    validator.validate(values)
    values["componentDefaults"]["gpus"] = 0.5
    (problem,) = validator.iter_errors(values)
    assert list(problem.absolute_path) == ["componentDefaults", "gpus"]


def test_the_defaults_alone_ask_for_an_endpoint() -> None:
    assert "set it to host or host:port of your S3 endpoint" in refused(None)
