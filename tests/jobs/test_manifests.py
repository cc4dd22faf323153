"""The rendered jobs fit their operators, hold what a run needs, and mean the recipe that was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from tests.jobs.schemas import FOLDER, crd_schema
from vigorl_lib.cli.main import cli
from vigorl_lib.config import load, validate
from vigorl_lib.errors import ConfigError
from vigorl_lib.jobs.manifests import indexed_job, manifests, pytorch_job, train_job, training_runtime
from vigorl_lib.jobs.spec import JobSpec
from vigorl_lib.recipes.schema import RECIPES, Recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "charts" / "vigorl" / "examples"
STUDENT = {
    "policies": {"student": "dns:///vigorl-policy-student.default.svc:50051"},
    "policy_admin": {"student": "dns:///vigorl-policy-student.default.svc:50052"},
    "search": "dns:///vigorl-search.default.svc:50051",
}


def spec(kind: str = "sft", **changes: Any) -> JobSpec:
    recipe = load(Recipe, f"quickstart-{kind}", folder=RECIPES, overrides=["root=s3://vigorl"], environment={})
    values = {
        "run": "demo",
        "kind": kind,
        "recipe": recipe.model_dump(mode="json"),
        "services": STUDENT,
        "image": "ghcr.io/vigorl/trainer:0.1.0",
        "s3": {"endpoint": "minio:9000"},
        **changes,
    }
    return validate(JobSpec, values, source="test")


FULL: dict[str, Any] = {
    "workers": 3,
    "gpus": 8,
    "queue": "research",
    "priority_class": "batch",
    "image_pull_secret": "registry",
    "node_selector": {"gpu": "h200"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "s3": {"endpoint": "minio:9000", "secure": False, "region": "eu-1", "secret": "vigorl-s3"},
    "auth_secret": "vigorl-auth",
    "tls_secret": "vigorl-tls",
    "nccl": {"NCCL_SOCKET_IFNAME": "eth0"},
}


def schema(group: str, plural: str) -> Any:
    found = crd_schema(group, plural)
    if found is None:
        pytest.skip(f"no {group}_{plural}.yaml in {FOLDER}; set VIGORL_SCHEMA_DIR (docs/jobs.md)")
    return found


def pods(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    body = manifest["spec"]
    if "pytorchReplicaSpecs" in body:
        return [replica["template"]["spec"] for replica in body["pytorchReplicaSpecs"].values()]
    if "replicatedJobs" in body["template"]["spec"]:
        return [job["template"]["spec"]["template"]["spec"] for job in body["template"]["spec"]["replicatedJobs"]]
    return [body["template"]["spec"]]


@pytest.mark.parametrize("kind", ["sft", "grpo"])
@pytest.mark.parametrize("changes", [{}, FULL], ids=["least", "full"])
def test_a_training_job_fits_both_operators_schemas(kind: str, changes: dict[str, Any]) -> None:
    job = spec(kind, **changes)
    pairs = [
        (pytorch_job(job), "kubeflow.org", "pytorchjobs"),
        (train_job(job), "trainer.kubeflow.org", "trainjobs"),
        (training_runtime(job), "trainer.kubeflow.org", "trainingruntimes"),
    ]
    for manifest, group, plural in pairs:
        jsonschema.Draft202012Validator(schema(group, plural)).validate(manifest)


def test_an_elastic_job_fits_the_schema_and_has_only_workers() -> None:
    job = pytorch_job(spec(workers=1, elastic={"min_pods": 1, "max_pods": 4}))
    jsonschema.Draft202012Validator(schema("kubeflow.org", "pytorchjobs")).validate(job)
    assert list(job["spec"]["pytorchReplicaSpecs"]) == ["Worker"]
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2
    assert job["spec"]["elasticPolicy"]["rdzvBackend"] == "c10d"


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_an_indexed_job_fits_the_schema_of_kubernetes(kind: str, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    changes = {key: value for key, value in FULL.items() if key != "workers"}
    kubernetes_validate.validate(indexed_job(spec(kind, shards=4, **changes)), version, strict=True)


@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_the_operators_own_client_reads_back_the_same_job(kind: str) -> None:
    client = pytest.importorskip("kubeflow.training.api_client").ApiClient()
    manifest = pytorch_job(spec(kind, **FULL))

    class Response:
        data = json.dumps(manifest)

    model = client.deserialize(Response(), "KubeflowOrgV1PyTorchJob")
    assert client.sanitize_for_serialization(model) == manifest


@pytest.mark.parametrize("kind", ["sft", "grpo", "search", "evaluate"])
@pytest.mark.parametrize("api", ["pytorchjob", "trainjob"])
def test_pods_are_restricted_and_mounts_have_volumes(kind: str, api: Any) -> None:
    changes = FULL if kind in ("sft", "grpo") else {k: v for k, v in FULL.items() if k != "workers"}
    rendered = manifests(spec(kind, **changes), api=api)
    for pod in (pod for manifest in rendered if manifest["kind"] != "TrainJob" for pod in pods(manifest)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["nodeSelector"] == {"gpu": "h200"}
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_no_secret_value_and_every_secret_by_reference() -> None:
    text = json.dumps(pytorch_job(spec(**FULL)))
    for secret in ("vigorl-s3", "vigorl-auth", "vigorl-tls", "registry"):
        assert secret in text
    (container,) = pods(pytorch_job(spec(**FULL)))[0]["containers"]
    plain = {variable["name"] for variable in container["env"] if "value" in variable}
    assert plain == {
        "VIGORL_S3__ENDPOINT",
        "VIGORL_S3__SECURE",
        "VIGORL_S3__REGION",
        "NCCL_SOCKET_IFNAME",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
    }


@pytest.mark.parametrize("workers", [0, 3])
def test_the_producer_runs_once_beside_rank_0_without_a_gpu(workers: int) -> None:
    replicas = pytorch_job(spec("grpo", workers=workers))["spec"]["pytorchReplicaSpecs"]
    ranks, producer = replicas["Master"]["template"]["spec"]["containers"]
    # Only the operator's webhook checks the name of the first.
    assert (ranks["name"], producer["name"]) == ("pytorch", "producer")
    assert (ranks["command"][0], ranks["command"][-2:]) == ("torchrun", ["-m", "vigorl_services.trainer"])
    assert producer["command"] == ["python", "-m", "vigorl_services.trainer"]
    assert (ranks["args"][0], producer["args"][0]) == ("grpo", "producer")
    assert ranks["args"][1:] == producer["args"][1:]
    assert "nvidia.com/gpu" not in producer["resources"]["limits"]
    if workers:
        assert [c["name"] for c in replicas["Worker"]["template"]["spec"]["containers"]] == ["pytorch"]


def test_a_trainjob_of_grpo_has_one_producer_and_ranks_that_the_operator_finds() -> None:
    runtime = training_runtime(spec("grpo", workers=3))
    node, producer = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert node["template"]["spec"]["template"]["spec"]["containers"][0]["name"] == "node"
    assert producer["template"]["metadata"]["labels"] == {}
    job = train_job(spec("grpo", workers=3, gpus=8))
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    assert (job["spec"]["trainer"]["numNodes"], job["spec"]["trainer"]["numProcPerNode"]) == (4, 8)


def test_a_job_knows_its_rules() -> None:
    job = pytorch_job(spec(**FULL))
    assert job["metadata"]["name"] == "demo-sft"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["spec"]["nprocPerNode"] == "8"
    assert job["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    assert job["spec"]["runPolicy"]["schedulingPolicy"] == {"priorityClass": "batch"}
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 3
    assert pods(job)[0]["priorityClassName"] == "batch"


@pytest.mark.parametrize("kind", ["sft", "grpo", "search", "evaluate"])
def test_the_arguments_give_back_the_recipe(kind: str) -> None:
    changed = ["root=s3://vigorl", "run_id=demo", "task.zoom.max_turns=3", "name=$(HOSTNAME) 'x'"]
    recipe = load(Recipe, f"quickstart-{kind}", folder=RECIPES, overrides=changed, environment={})
    job = spec(
        kind, recipe=recipe.model_dump(mode="json"), services={"environment": "dns:///environment:50051"} | STUDENT
    )
    arguments = pods(manifests(job)[0])[0]["containers"][0]["args"]
    base = next(a.removeprefix("--recipe=") for a in arguments if a.startswith("--recipe="))
    # The kubelet reads $$ as $.
    told = [a.removeprefix("--set=").replace("$$", "$") for a in arguments if a.startswith("--set=")]
    found = load(Recipe, base, folder=RECIPES, overrides=told, environment={})
    services = recipe.services.model_copy(update={**STUDENT, "environment": "dns:///environment:50051"})
    assert found == recipe.model_copy(update={"services": services})


@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_the_pods_of_an_indexed_job_take_a_shard_each(kind: str) -> None:
    job = indexed_job(spec(kind, shards=4))
    assert pods(job)[0]["containers"][0]["args"][-1] == "--shard=$(JOB_COMPLETION_INDEX)/4"
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["completionMode"]) == (4, 4, "Indexed")
    alone = pods(indexed_job(spec(kind)))[0]["containers"][0]["args"]
    assert not any("JOB_COMPLETION_INDEX" in argument for argument in alone)


@pytest.mark.parametrize("kind", ["search", "evaluate"])
def test_the_command_line_takes_the_arguments_of_a_shard(kind: str) -> None:
    arguments = pods(indexed_job(spec(kind, shards=4)))[0]["containers"][0]["args"]
    command = [argument.replace("$(JOB_COMPLETION_INDEX)", "3") for argument in (*arguments, "--dry-run")]
    result = CliRunner().invoke(cli, command, catch_exceptions=False, env={})
    assert result.exit_code == 0, result.output


def services_of(kind: str, **changes: Any) -> dict[str, Any]:
    job = manifests(spec(kind, **{"services": {}, "release": "vigorl", "namespace": "team", **changes}))[-1]
    (told,) = (a for a in pods(job)[0]["containers"][0]["args"] if a.startswith("--set=services="))
    services: dict[str, Any] = json.loads(told.removeprefix("--set=services="))
    return services


def test_a_job_uses_the_services_of_the_release() -> None:
    services = services_of("grpo")
    assert services["policies"] == {"student": "dns:///vigorl-policy-student.team.svc:50051"}
    assert services["policy_admin"] == {"student": "dns:///vigorl-policy-student.team.svc:50052"}
    assert services["environment"] == "dns:///vigorl-environment.team.svc:50051"
    assert services_of("search", release="mine")["search"] == "dns:///mine-vigorl-search.team.svc:50051"
    assert services_of("evaluate")["evaluation"] == "dns:///vigorl-evaluation.team.svc:50051"


def test_an_address_that_was_given_stands_above_the_releases() -> None:
    recipe = load(
        Recipe,
        "quickstart-grpo",
        folder=RECIPES,
        overrides=["root=s3://vigorl", "services.environment=dns:///mine:1", "services.policies.judge=dns:///judge:1"],
        environment={},
    )
    services = services_of("grpo", recipe=recipe.model_dump(mode="json"), services={"reward": "local"})
    assert services["environment"] == "dns:///mine:1"
    assert "reward" not in services, "local is the default"
    assert services["policies"]["judge"] == "dns:///judge:1"
    assert services["policies"]["student"] == "dns:///vigorl-policy-student.team.svc:50051"


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_is_wired_to_the_mounted_secret(mutual: bool) -> None:
    client = services_of("grpo", tls_secret="vigorl-tls", mtls=mutual)["client"]
    assert client["tls_ca"] == "/etc/vigorl/tls/ca.crt"
    assert client.get("tls_key") == ("/etc/vigorl/tls/tls.key" if mutual else None)


def test_pods_that_are_restarted_alone_join_a_further_rendezvous() -> None:
    several, alone = pytorch_job(spec(workers=2, backoff=5)), pytorch_job(spec())
    for pod in pods(several):
        command = pod["containers"][0]["command"]
        assert command[0] == "torchrun"
        assert command[-2:] == ["-m", "vigorl_services.trainer"]
        wanted = {"--rdzv-backend=c10d", "--rdzv-endpoint=$(MASTER_ADDR):$(MASTER_PORT)", "--max-restarts=5"}
        assert wanted <= set(command)
        variables = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
        assert variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert pods(alone)[0]["containers"][0]["command"] == ["torchrun", "-m", "vigorl_services.trainer"]
    # Trainer v2 begins all pods anew when one fails, and an elastic job has the operator's rendezvous.
    elastic = pytorch_job(spec(workers=1, elastic={"min_pods": 1, "max_pods": 4}))
    for pod in (*pods(elastic), *pods(training_runtime(spec(workers=2)))):
        assert not any(word.startswith("--rdzv") for word in pod["containers"][0]["command"])


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("sft", {"gpus": 0.5}, "gpus"),
        ("sft", {"workers": -1}, "workers"),
        ("sft", {"gpu": 8}, "did you mean 'gpus'"),
        ("sft", {"run": "Demo_1"}, "run"),
        ("sft", {"image": "ghcr.io/vigorl/trainer"}, "image"),
        ("sft", {"image": "ghcr.io/vigorl/trainer@sha256:12"}, "image"),
        ("sft", {"s3": {"secret": "vigorl-s3"}}, "s3.endpoint"),
        ("search", {"s3": {}}, "s3.endpoint"),
        ("sft", {"recipe": {"root": "runs/x"}}, "s3://"),
        ("sft", {"mtls": True}, "tls_secret"),
        ("sft", {"shards": 2}, "shards"),
        ("sft", {"nccl": {"PATH": "/"}}, "NCCL_"),
        ("sft", {"elastic": {"min_pods": 3, "max_pods": 2}}, "min_pods"),
        ("sft", {"elastic": {"min_pods": 2, "max_pods": 3}}, "1 + workers"),
        ("sft", {"recipe": {"root": "s3://b", "sft": {"engine": {"zero_stage": 2}}}, "elastic": {}}, "zero_stage"),
        ("grpo", {"elastic": {}}, "producer"),
        ("grpo", {"services": {}}, "services.policies.student"),
        ("grpo", {"services": {"policies": {"student": "x:1"}}}, "services.policy_admin.student"),
        ("evaluate", {"services": {"policies": {"teacher": "x:1"}}}, "services.policies.student"),
        ("search", {"services": {}}, "services.search"),
    ],
)
def test_a_mistake_is_told_before_the_cluster_sees_it(kind: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        manifests(spec(kind, **changes))
    assert told in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_what_the_command_in_their_first_line_prints(path: Path) -> None:
    first, _, body = path.read_text().partition("\n")
    arguments = first.removeprefix("# vigorl ").split()
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False, env={})
    assert result.exit_code == 0, result.output
    assert list(yaml.safe_load_all(result.stdout)) == list(yaml.safe_load_all(body))


def test_there_are_examples_of_every_kind() -> None:
    kinds = {doc["kind"] for path in EXAMPLES.glob("*.yaml") for doc in yaml.safe_load_all(path.read_text())}
    assert kinds == {"PyTorchJob", "TrainingRuntime", "TrainJob", "Job"}
