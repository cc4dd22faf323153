"""The settings that the chart writes: what the services' own classes take, with addresses that exist."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.chart.render import CI, NAMESPACE, RELEASE, Manifest, of_kind, render, services
from vigorl_lib.config import validate
from vigorl_services.configs import SERVICE_CONFIGS


def configs(manifests: tuple[Manifest, ...]) -> dict[str, dict[str, Any]]:
    """config.json of each service by component."""
    maps = of_kind(manifests, "ConfigMap")
    return {name: json.loads(maps[f"{RELEASE}-{name}"]["data"]["config.json"]) for name in services(manifests)}


@pytest.mark.parametrize("values", CI)
def test_a_service_takes_the_settings_that_are_rendered_for_it(values: str) -> None:
    checked = set()
    for name, config in configs(render(values)).items():
        role = name.split("-")[0]
        validate(SERVICE_CONFIGS[role], config, source=name)
        checked.add(role)
    assert checked == set(SERVICE_CONFIGS)


@pytest.mark.parametrize("values", CI)
def test_a_container_runs_its_service_with_the_settings_that_are_mounted(values: str) -> None:
    for name, deployment in services(render(values)).items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] == ["python", "-m", f"vigorl_services.{name.split('-')[0]}"]
        assert container["args"] == ["--config", "/etc/vigorl/config.json"]
        (mount,) = (m for m in container["volumeMounts"] if m["mountPath"] == "/etc/vigorl/config.json")
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        assert volume["configMap"]["name"] == f"{RELEASE}-{name}"


@pytest.mark.parametrize("values", CI)
def test_ports_of_the_settings_are_ports_of_the_container(values: str) -> None:
    manifests = render(values)
    deployments = services(manifests)
    for name, config in configs(manifests).items():
        ports = {
            p["name"]: p["containerPort"]
            for p in deployments[name]["spec"]["template"]["spec"]["containers"][0]["ports"]
        }
        assert config["server"]["listen"] == f"0.0.0.0:{ports.pop('grpc')}"
        assert config["server"]["metrics_port"] == ports.pop("metrics")
        assert (config["admin"]["listen"] == f"0.0.0.0:{ports.pop('grpc-admin')}") if "admin" in config else not ports


@pytest.mark.parametrize("values", CI)
def test_targets_are_services_of_the_release(values: str) -> None:
    manifests = render(values)
    known = {f"dns:///{name}.{NAMESPACE}.svc:50051" for name in of_kind(manifests, "Service")}
    for name in ("search", "evaluation"):
        asked = configs(manifests)[name]["services"]
        targets = [*asked["policies"].values(), asked["environment"], asked["reward"]]
        assert set(targets) <= known
        for policy, target in asked["policies"].items():
            assert f"-policy-{policy}." in target


def test_search_and_evaluation_ask_the_policies_that_they_are_given() -> None:
    found = configs(render("gpu-single"))
    assert set(found["search"]["services"]["policies"]) == {"student"}
    assert set(found["evaluation"]["services"]["policies"]) == {"student", "judge"}


def test_the_reward_service_asks_the_policy_that_judges() -> None:
    assert "judge" not in configs(render("cpu"))["reward"]
    target = f"dns:///{RELEASE}-policy-judge.{NAMESPACE}.svc:50051"
    assert configs(render("gpu-single"))["reward"]["judge"] == {"policy": "judge", "target": target, "client": {}}
    judge = configs(render("mtls", "--set=reward.config.judge.policy=student"))["reward"]["judge"]
    assert judge["client"]["tls_ca"] == "/etc/vigorl/tls/ca.crt"
    assert judge["client"]["tls_key"] == "/etc/vigorl/tls/tls.key"
    elsewhere = configs(render("cpu", "--set=reward.config.judge.target=dns:///judge.other.svc:50051"))
    assert elsewhere["reward"]["judge"] == {"target": "dns:///judge.other.svc:50051"}


def test_without_an_environment_service_its_callers_have_their_own() -> None:
    found = configs(render("cpu", "--set=environment.enabled=false", "--set=reward.enabled=false"))
    assert set(found["search"]["services"]) == {"policies"}


def test_only_a_policy_that_a_run_trains_takes_weights_and_follows_that_run() -> None:
    found = configs(render("gpu-multi"))
    assert found["policy-student"]["admin"] == {"listen": "0.0.0.0:50052"}
    assert found["policy-student"]["policy"]["weights_root"] == "s3://vigorl/runs/demo/grpo/weights"
    assert "admin" not in found["policy-teacher"]
    assert "weights_root" not in found["policy-teacher"]["policy"]


def test_weights_are_followed_where_the_trainer_writes_them(tmp_path: Any) -> None:
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    config = configs(render("cpu"))["policy-student"]
    layout = RunLayout(open_storage(str(tmp_path)), config["policy"]["trainable_by"])
    assert config["policy"]["weights_root"] == f"{config['root']}/{layout.weights}"


@pytest.mark.parametrize(
    ("flags", "server", "admin"),
    [
        ((), False, False),
        (("--set=auth.existingSecret=",), True, True),
        (("--set=auth.existingSecret=", "--set=tls.existingSecret=x"), False, True),
        (("--set=auth.existingSecret=", "--set=tls.existingSecret=x", "--set=tls.mutual=true"), False, False),
    ],
)
def test_an_open_listener_says_that_it_is_meant(flags: tuple[str, ...], server: bool, admin: bool) -> None:
    """Otherwise the service would refuse to start; and where it is protected it says no such thing."""
    for config in configs(render("cpu", *flags)).values():
        assert config["server"].get("allow_insecure", False) is server
        if "admin" in config:
            assert config["admin"].get("allow_insecure", False) is admin


def test_under_mutual_tls_every_listener_and_every_client_has_certificates() -> None:
    pair = {"tls_certificate": "/etc/vigorl/tls/tls.crt", "tls_key": "/etc/vigorl/tls/tls.key"}
    found = configs(render("mtls"))
    listeners = [config["server"] for config in found.values()] + [found["policy-student"]["admin"]]
    for listener in listeners:
        assert listener.items() >= {**pair, "tls_client_ca": "/etc/vigorl/tls/ca.crt"}.items()
    for caller in ("search", "evaluation"):
        assert found[caller]["services"]["client"] == {**pair, "tls_ca": "/etc/vigorl/tls/ca.crt"}


def test_tls_without_mutual_asks_no_certificate_of_clients() -> None:
    found = configs(render("mtls", "--set=tls.mutual=false"))
    assert "tls_client_ca" not in found["search"]["server"]
    assert found["search"]["services"]["client"] == {"tls_ca": "/etc/vigorl/tls/ca.crt"}


@pytest.mark.parametrize("values", CI)
def test_a_drain_ends_before_the_pod_is_killed(values: str) -> None:
    manifests = render(values)
    for name, config in configs(manifests).items():
        pod = services(manifests)[name]["spec"]["template"]["spec"]
        pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert 0 < config["server"]["drain_s"] <= pod["terminationGracePeriodSeconds"] - pause - 5


def test_settings_that_a_user_gives_stand_above_the_charts() -> None:
    flags = (
        "--set=search.config.server.max_concurrent_calls=8",
        "--set=search.config.services.client.timeout_s=60",
        "--set=search.config.services.policies.outside=10.0.0.1:50051",
        "--set=search.config.image_cache_bytes=268435456",
    )
    found = configs(render("cpu", *flags))["search"]
    assert found["server"]["max_concurrent_calls"] == 8
    assert found["server"]["listen"] == "0.0.0.0:50051"
    assert set(found["services"]["policies"]) == {"student", "outside"}
    assert found["image_cache_bytes"] == 268435456
