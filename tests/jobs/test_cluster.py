"""The job client against an emulated API server (tests/jobs/apiserver.py says what that is and is not)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

pytest.importorskip("kubernetes")
pytest.importorskip("kmock")

from kubernetes import client

from tests.jobs.apiserver import ApiServer, pod, serve
from tests.jobs.test_manifests import FULL, spec
from vigorl_lib.cli.main import cli
from vigorl_lib.jobs.cluster import Cluster
from vigorl_lib.jobs.explain import RIGHTS, ClusterError
from vigorl_lib.jobs.manifests import manifests


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ApiServer, client.ApiClient]]:
    with serve() as pair:
        yield pair


@pytest.fixture
def server(served: tuple[ApiServer, client.ApiClient]) -> Iterator[ApiServer]:
    yield served[0]
    rules = served[0].rules
    served[0].rules = type(rules)()
    served[0].objects.clear()


@pytest.fixture
def api(served: tuple[ApiServer, client.ApiClient]) -> client.ApiClient:
    return served[1]


@pytest.fixture
def cluster(server: ApiServer, api: client.ApiClient) -> Cluster:
    return Cluster(api, "default")


def set_status(api: client.ApiClient, name: str, status: dict[str, object]) -> None:
    objects = client.CustomObjectsApi(api)
    objects.patch_namespaced_custom_object("kubeflow.org", "v1", "default", "pytorchjobs", name, {"status": status})


def condition(kind: str, message: str = "") -> dict[str, object]:
    return {"conditions": [{"type": kind, "status": "True", "message": message}]}


def refused(cluster: Cluster, kind: str = "sft", **changes: object) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        cluster.submit(manifests(spec(kind, **changes)))
    return caught.value


@pytest.mark.parametrize("kind", ["sft", "grpo", "search", "evaluate"])
@pytest.mark.parametrize("operator", ["pytorchjob", "trainjob"])
def test_a_job_is_submitted_listed_and_cancelled(cluster: Cluster, kind: str, operator: str) -> None:
    cluster.submit(manifests(spec(kind), api=operator))  # type: ignore[arg-type]
    (status,) = cluster.jobs()
    assert (status.name, status.run, status.state) == (f"demo-{kind}", "demo", "Pending")
    cluster.cancel(status.name)
    assert cluster.jobs() == []
    cluster.submit(manifests(spec(kind), api=operator))  # type: ignore[arg-type]


def test_a_second_job_of_one_run_is_refused_under_whichever_operator(cluster: Cluster) -> None:
    cluster.submit(manifests(spec()))
    error = refused(cluster)
    assert error.reason == "RUN_EXISTS"
    assert "vigorl jobs -n default cancel demo-sft" in error.message
    with pytest.raises(ClusterError, match="already in namespace"):
        cluster.submit(manifests(spec(), api="trainjob"))


def test_a_race_of_two_submissions_has_one_winner(cluster: Cluster, server: ApiServer) -> None:
    server.rules.refuse("create", "pytorchjobs", 409, "already exists")
    assert refused(cluster).reason == "RUN_EXISTS"


def test_the_runtime_goes_when_its_job_is_refused(cluster: Cluster, server: ApiServer) -> None:
    server.rules.refuse("create", "trainjobs", 422, "spec.trainer: invalid")
    with pytest.raises(ClusterError) as caught:
        cluster.submit(manifests(spec(), api="trainjob"))
    assert caught.value.reason == "MANIFEST_REFUSED"
    assert ("delete", "trainingruntimes", "demo-sft") in server.rules.calls


def test_the_runtime_belongs_to_its_job(cluster: Cluster, api: client.ApiClient) -> None:
    cluster.submit(manifests(spec(), api="trainjob"))
    path = ("trainer.kubeflow.org", "v1alpha1", "default", "trainingruntimes", "demo-sft")
    runtime = client.CustomObjectsApi(api).get_namespaced_custom_object(*path)
    assert runtime["metadata"]["ownerReferences"][0]["kind"] == "TrainJob"


def test_a_server_side_dry_run_makes_nothing(cluster: Cluster) -> None:
    cluster.check(manifests(spec()))
    assert cluster.jobs() == []


def test_a_missing_operator_is_told_with_its_installation(cluster: Cluster, server: ApiServer) -> None:
    server.rules.installed.clear()
    error = refused(cluster)
    assert error.reason == "CRD_MISSING"
    assert "kubectl apply --server-side -k" in error.message
    assert cluster.jobs() == []


def test_a_missing_namespace_is_told_with_its_command(cluster: Cluster, server: ApiServer) -> None:
    server.rules.namespaces.clear()
    error = refused(cluster, **FULL)
    assert error.reason == "NAMESPACE_MISSING"
    assert "kubectl create namespace default" in error.message


def test_a_missing_secret_is_told_with_its_command(cluster: Cluster) -> None:
    error = refused(cluster, s3={"endpoint": "minio:9000", "secret": "vigorl-s3"})
    assert error.reason == "SECRET_MISSING"
    assert "create secret generic vigorl-s3 --from-file=access-key=FILE" in error.message
    assert cluster.jobs() == []


def test_a_missing_certificate_is_told_with_the_keys_that_the_job_takes(cluster: Cluster) -> None:
    error = refused(cluster, tls_secret="vigorl-tls", mtls=True)
    assert "--from-file=ca.crt=FILE --from-file=tls.crt=FILE --from-file=tls.key=FILE" in error.message


def test_whoever_may_not_read_secrets_may_still_submit(cluster: Cluster, server: ApiServer) -> None:
    server.rules.refuse("get", "secrets", 403, 'secrets "vigorl-s3" is forbidden: User "a" cannot get resource')
    cluster.submit(manifests(spec(s3={"endpoint": "minio:9000", "secret": "vigorl-s3"})))
    assert len(cluster.jobs()) == 1


@pytest.mark.parametrize(
    ("status", "message", "reason", "told"),
    [
        (401, "Unauthorized", "CLUSTER_UNAUTHENTICATED", "kubectl auth whoami"),
        (
            403,
            'pytorchjobs.kubeflow.org is forbidden: User "a" cannot create resource "pytorchjobs"',
            "CLUSTER_FORBIDDEN",
            "kubectl -n default create role",
        ),
        (403, "exceeded quota: gpus, requested: 8, used: 8, limited: 8", "CLUSTER_QUOTA", "describe resourcequota"),
        (403, 'admission webhook "x" denied the request: no GPU for you', "CLUSTER_POLICY", "no GPU for you"),
        (422, "spec.runPolicy: unknown field", "MANIFEST_REFUSED", "spec.runPolicy"),
        (500, "etcd is slow", "CLUSTER_FAILED", "etcd is slow"),
    ],
)
def test_a_refusal_is_explained(
    cluster: Cluster, server: ApiServer, status: int, message: str, reason: str, told: str
) -> None:
    server.rules.refuse("create", "pytorchjobs", status, message, reason="Forbidden" if status == 403 else "")
    error = refused(cluster)
    assert (error.reason, error.infrastructure) == (reason, status >= 500)
    assert told in error.message


def test_no_right_to_a_kind_that_is_not_needed_is_no_trouble(cluster: Cluster, server: ApiServer) -> None:
    server.rules.refuse("get", "trainjobs", 403, "User cannot get resource", reason="Forbidden")
    cluster.submit(manifests(spec()))
    for kind in ("pytorchjobs", "jobs"):
        server.rules.refuse("get", kind, 403, "User cannot get resource", reason="Forbidden")
    with pytest.raises(ClusterError, match="may not get"):
        cluster.status("demo-sft")


def test_a_cluster_that_is_away_is_named() -> None:
    configuration = client.Configuration()
    configuration.host, configuration.retries = "http://127.0.0.1:9", False
    with pytest.raises(ClusterError, match=r"no answer from the cluster at http://127\.0\.0\.1:9") as caught:
        Cluster(client.ApiClient(configuration), "default").jobs()
    assert caught.value.reason == "CLUSTER_UNREACHABLE"


def test_the_status_follows_the_operators_conditions(cluster: Cluster, api: client.ApiClient) -> None:
    cluster.submit(manifests(spec()))
    for name, state in (("Created", "Pending"), ("Running", "Running"), ("Restarting", "Restarting")):
        set_status(api, "demo-sft", condition(name, "why"))
        assert cluster.status("demo-sft").state == state
    set_status(api, "demo-sft", condition("Failed", "exit code 1"))
    assert cluster.status("demo-sft").ended
    assert cluster.status("demo-sft").message == "exit code 1"


def test_the_status_says_what_pods_wait_for(cluster: Cluster, api: client.ApiClient) -> None:
    cluster.submit(manifests(spec()))
    waiting = pod("demo-sft-master-0", "demo-sft", "pytorch")
    reason = {"reason": "CreateContainerConfigError", "message": 'secret "vigorl-s3" not found'}
    waiting["status"] = {
        "containerStatuses": [
            {
                "name": "pytorch",
                "image": "x",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": reason},
                "lastState": {},
            }
        ],
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}],
    }
    client.CoreV1Api(api).create_namespaced_pod("default", waiting)
    assert cluster.status("demo-sft").trouble == (
        "demo-sft-master-0: Unschedulable: no GPU",
        'demo-sft-master-0/pytorch: CreateContainerConfigError: secret "vigorl-s3" not found',
    )


def test_a_watch_tells_each_state_once_and_survives_its_expiry_and_its_end(
    cluster: Cluster, api: client.ApiClient, server: ApiServer
) -> None:
    cluster.submit(manifests(spec()))
    server.rules.expired_watches, server.rules.cut_watches = 1, 1
    states: list[str] = []
    watcher = threading.Thread(target=lambda: states.extend(status.state for status in cluster.watch("demo-sft")))
    watcher.start()
    deadline = time.monotonic() + 20
    while [call[0] for call in server.rules.calls].count("watch") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for name in ("Running", "Succeeded"):
        time.sleep(0.3)
        set_status(api, "demo-sft", condition(name))
    watcher.join(10)
    assert states == ["Pending", "Running", "Succeeded"]


def test_a_watch_ends_when_the_job_is_deleted(cluster: Cluster) -> None:
    cluster.submit(manifests(spec()))
    watch = cluster.watch("demo-sft")
    assert next(watch).state == "Pending"
    threading.Timer(0.5, cluster.cancel, ["demo-sft"]).start()
    with pytest.raises(ClusterError, match="demo-sft") as caught:
        list(watch)
    assert caught.value.reason == "JOB_UNKNOWN"


def test_logs_are_those_of_rank_0_or_of_the_container_asked_for(
    cluster: Cluster, api: client.ApiClient, server: ApiServer
) -> None:
    cluster.submit(manifests(spec("grpo")))
    with pytest.raises(ClusterError) as caught:
        list(cluster.logs("demo-grpo"))
    assert caught.value.reason == "LOGS_NOT_YET"
    core = client.CoreV1Api(api)
    core.create_namespaced_pod("default", pod("demo-grpo-master-0", "demo-grpo", "pytorch", "producer"))
    core.create_namespaced_pod("default", pod("demo-grpo-worker-0", "demo-grpo", "pytorch"))
    core.create_namespaced_pod("default", pod("other", "other", "pytorch"))
    path = "get /api/v1/namespaces/default/pods/demo-grpo-master-0/log"
    server[path] << (lambda request: f"{request.params['container']}: 1\nschön\nrest".encode())
    assert list(cluster.logs("demo-grpo")) == ["pytorch: 1", "schön", "rest"]
    assert next(cluster.logs("demo-grpo", container="producer", follow=True)) == "producer: 1"


def test_the_rights_that_it_names_are_those_that_it_uses(
    cluster: Cluster, api: client.ApiClient, server: ApiServer
) -> None:
    client.CoreV1Api(api).create_namespaced_secret("default", {"metadata": {"name": "vigorl-s3"}})
    s3 = {"endpoint": "minio:9000", "secret": "vigorl-s3"}
    server.rules.calls.clear()
    for kind, operator in (("sft", "pytorchjob"), ("grpo", "trainjob"), ("search", "pytorchjob")):
        cluster.submit(manifests(spec(kind, s3=s3), api=operator))  # type: ignore[arg-type]
        watch = cluster.watch(f"demo-{kind}")
        assert next(watch).state == "Pending"
        threading.Timer(0.3, cluster.cancel, [f"demo-{kind}"]).start()
        with pytest.raises(ClusterError):
            next(watch)
    cluster.jobs()
    used: dict[str, set[str]] = {}
    for verb, plural, _ in server.rules.calls:
        used.setdefault(plural, set()).add(verb)
    # Logs are asked of a pod's path, which the emulation reads as the pod itself.
    named = {resource.partition(".")[0]: set(verbs) for resource, verbs in RIGHTS.items() if resource != "pods/log"}
    assert used | {"pods": {"list"}} == named


def test_what_is_not_there_is_unknown(cluster: Cluster) -> None:
    for call in (cluster.status, cluster.cancel, lambda name: list(cluster.logs(name))):
        with pytest.raises(ClusterError) as caught:
            call("nothing")
        assert caught.value.reason == "JOB_UNKNOWN"


@pytest.fixture
def kubeconfig(server: ApiServer, api: client.ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": api.configuration.host}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    # The official client reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))


def test_the_command_line_goes_through_a_whole_life(kubeconfig: None) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["jobs", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    job = ("sft", "--run-id", "demo", "--root", "s3://vigorl", "--job-set", "s3.endpoint=minio:9000")
    assert "nothing was made" in run("submit", *job, "--dry-run", "server")
    rendered = run("submit", *job, "--dry-run", "client")
    assert yaml.safe_load(rendered)["kind"] == "PyTorchJob"
    assert rendered == run("render", *job)
    assert "demo-sft created in namespace default" in run("submit", *job)
    assert "demo-sft" in run("list")
    assert "PyTorchJob demo-sft: Pending" in run("status", "demo-sft")
    assert "deleted" in run("cancel", "demo-sft")


def test_an_unknown_context_is_told(kubeconfig: None) -> None:
    with pytest.raises(ClusterError, match="kubectl config get-contexts"):
        Cluster.open("default", context="elsewhere")
