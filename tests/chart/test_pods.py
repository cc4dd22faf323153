"""The pods of the services: restricted, probed, drained, placed, and given secrets only by reference."""

from __future__ import annotations

import pytest

from tests.chart.render import CI, Manifest, containers, pods, render, services


def pod(values: str, name: str, *flags: str) -> Manifest:
    found: Manifest = services(render(values, *flags))[name]["spec"]["template"]["spec"]
    return found


def container(values: str, name: str, *flags: str) -> Manifest:
    (found,) = pod(values, name, *flags)["containers"]
    return dict(found)


@pytest.mark.parametrize("values", CI)
def test_pods_keep_to_the_restricted_standard(values: str) -> None:
    for found in pods(render(values)).values():
        assert found["automountServiceAccountToken"] is False
        assert found["enableServiceLinks"] is False
        security = found["securityContext"]
        assert security["runAsNonRoot"] is True
        assert (security["runAsUser"], security["fsGroup"]) == (10001, 10001)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & found.keys()
        assert all("hostPath" not in volume for volume in found["volumes"])
        for inner in containers(found):
            assert inner["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"name": "tmp", "mountPath": "/tmp"} in inner["volumeMounts"]


@pytest.mark.parametrize("values", CI)
def test_probes_ask_readiness_by_the_empty_name_and_liveness_by_its_own(values: str) -> None:
    # The kubelet speaks neither TLS nor mTLS to a gRPC port.
    port = 50053 if values == "mtls" else 50051
    for deployment in services(render(values)).values():
        (found,) = deployment["spec"]["template"]["spec"]["containers"]
        assert found["startupProbe"]["grpc"] == found["readinessProbe"]["grpc"] == {"port": port}
        assert found["livenessProbe"]["grpc"] == {"port": port, "service": "liveness"}


def test_a_policy_may_load_for_half_an_hour_and_for_as_long_as_it_says() -> None:
    for flags, seconds in (((), 1800), (("--set=policies.student.startupSeconds=7203",), 7205)):
        probe = container("cpu", "policy-student", *flags)["startupProbe"]
        assert probe["periodSeconds"] * probe["failureThreshold"] == seconds


@pytest.mark.parametrize("values", CI)
def test_a_rollout_waits_for_as_long_as_a_pod_may_start(values: str) -> None:
    for deployment in services(render(values)).values():
        (found,) = deployment["spec"]["template"]["spec"]["containers"]
        probe = found["startupProbe"]
        assert deployment["spec"]["progressDeadlineSeconds"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_another_version_of_the_chart_restarts_no_pod_by_itself() -> None:
    for deployment in services(render("cpu")).values():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert not {"helm.sh/chart", "app.kubernetes.io/version"} & labels.keys()


def test_whole_gpus_are_a_limit_and_their_pods_do_not_surge() -> None:
    manifests = services(render("gpu-multi"))
    teacher, environment = manifests["policy-teacher"]["spec"], manifests["environment"]["spec"]
    limits = teacher["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"memory": "256Gi", "nvidia.com/gpu": 4}
    assert teacher["strategy"] == {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    assert environment["strategy"] == {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert "nvidia.com/gpu" not in environment["template"]["spec"]["containers"][0]["resources"]["limits"]


def test_a_strategy_that_is_given_is_taken() -> None:
    manifests = services(render("cpu", "--set=search.strategy.type=Recreate"))
    assert manifests["search"]["spec"]["strategy"] == {"type": "Recreate"}


def test_gpu_placement_reaches_the_pod() -> None:
    found = pod("gpu-multi", "policy-teacher")
    assert found["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert found["runtimeClassName"] == "nvidia"
    assert found["priorityClassName"] == "research"
    assert found["imagePullSecrets"] == [{"name": "registry"}]
    assert found["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_replicas_spread_over_nodes_counting_their_own_component() -> None:
    (constraint,) = pod("cpu", "environment")["topologySpreadConstraints"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "environment"


def test_shared_memory_is_a_sized_memory_volume_where_it_is_asked_for() -> None:
    volumes = {volume["name"]: volume for volume in pod("gpu-multi", "policy-teacher")["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    mounts = container("gpu-multi", "policy-teacher")["volumeMounts"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in mounts
    assert "shm" not in {volume["name"] for volume in pod("gpu-multi", "search")["volumes"]}


def test_the_listener_closes_after_the_pod_was_taken_out_of_the_endpoints() -> None:
    assert container("cpu", "search")["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


def environment(values: str, name: str, *flags: str) -> dict[str, Manifest]:
    return {variable["name"]: variable for variable in container(values, name, *flags)["env"]}


def test_credentials_come_from_secrets_and_the_state_key_goes_to_the_environment_alone() -> None:
    for name in services(render("cpu")):
        found = environment("cpu", name)
        assert found["VIGORL_S3__SECRET_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "vigorl-s3", "key": "secret-key"}
        assert found["VIGORL_AUTH__TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "vigorl-auth", "key": "token"}
        admin = found["VIGORL_AUTH__ADMIN_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert admin == {"name": "vigorl-auth", "key": "admin-token", "optional": True}
        assert ("VIGORL_STATE__KEY" in found) is (name == "environment")


def test_only_the_policy_that_asks_an_endpoint_gets_its_key() -> None:
    found = environment("gpu-single", "policy-judge")["VIGORL_OPENAI__API_KEY"]["valueFrom"]["secretKeyRef"]
    assert found == {"name": "vigorl-judge", "key": "api-key"}
    assert "VIGORL_OPENAI__API_KEY" not in environment("gpu-single", "policy-student")


def test_without_secrets_a_pod_refers_to_none() -> None:
    flags = ("--set=auth.existingSecret=", "--set=storage.s3.existingSecret=")
    assert "secretKeyRef" not in str(render("cpu", *flags))


def test_certificates_are_mounted_from_their_secret() -> None:
    volumes = {volume["name"]: volume for volume in pod("mtls", "search")["volumes"]}
    assert volumes["tls"] == {"name": "tls", "secret": {"secretName": "vigorl-tls"}}
    assert {"name": "tls", "mountPath": "/etc/vigorl/tls", "readOnly": True} in container("mtls", "search")[
        "volumeMounts"
    ]


def test_a_folder_root_is_a_claim_that_every_service_mounts() -> None:
    flags = ("--set=storage.root=/data/vigorl", "--set=storage.existingClaim=runs", "--set=storage.s3.endpoint=")
    for name, deployment in services(render("cpu", *flags)).items():
        spec = deployment["spec"]["template"]["spec"]
        assert {"name": "storage", "persistentVolumeClaim": {"claimName": "runs"}} in spec["volumes"]
        assert {"name": "storage", "mountPath": "/data/vigorl"} in spec["containers"][0]["volumeMounts"]
        assert "VIGORL_S3__ENDPOINT" not in environment("cpu", name, *flags)


def test_a_changed_setting_rolls_the_pods_of_its_component_only() -> None:
    def checksums(*flags: str) -> dict[str, str]:
        found = services(render("cpu", *flags))
        return {n: d["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for n, d in found.items()}

    before, after = checksums(), checksums("--set=environment.config.threads=4")
    assert {name for name in before if before[name] != after[name]} == {"environment"}


def test_what_a_user_adds_to_a_pod_is_there() -> None:
    flags = (
        '--set-json=search.extraEnv=[{"name":"A","value":"b"}]',
        '--set-json=search.extraVolumes=[{"name":"x","emptyDir":{}}]',
        '--set-json=search.extraVolumeMounts=[{"name":"x","mountPath":"/x"}]',
        '--set-json=search.podLabels={"team":"a"}',
        '--set-json=search.podAnnotations={"note":"b"}',
        '--set-json=search.affinity={"nodeAffinity":{}}',
        '--set-json=search.serviceAccount={"annotations":{"role":"r"}}',
    )
    manifests = render("cpu", *flags)
    template = services(manifests)["search"]["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["annotations"]["note"] == "b"
    assert template["spec"]["affinity"] == {"nodeAffinity": {}}
    assert environment("cpu", "search", *flags)["A"] == {"name": "A", "value": "b"}
    assert {"name": "x", "mountPath": "/x"} in container("cpu", "search", *flags)["volumeMounts"]
    account = next(m for m in manifests if m["kind"] == "ServiceAccount" and m["metadata"]["name"] == "vigorl-search")
    assert account["metadata"]["annotations"] == {"role": "r"}
