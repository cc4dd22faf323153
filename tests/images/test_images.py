"""Images: what their Dockerfiles promise, and, marked slow, each service built and run as a cluster would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICES = ("environment", "reward", "search", "policy", "trainer")
SMALL = ("environment", "reward", "search")
"""Images without torch."""
SMALL_BYTES = 300_000_000
TAG = "test"
ANSWER_TIMEOUT_S = 120.0

# Without CAP_SYS_RESOURCE podman cannot raise these limits to its own defaults.
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


def dockerfile(service: str) -> str:
    return (REPOSITORY / "services" / service / "Dockerfile").read_text()


def final_stage(service: str) -> str:
    return re.split(r"^FROM ", dockerfile(service), flags=re.MULTILINE)[-1]


@pytest.mark.parametrize("service", SERVICES)
def test_every_stage_stands_on_the_base_that_the_builder_names(service: str) -> None:
    text = dockerfile(service)
    stages = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert re.search(r"^ARG BASE=\S+:3\.11\S*$", text, flags=re.MULTILINE)
    assert len(stages) > 1
    assert set(stages) == {"${BASE}"}


@pytest.mark.parametrize("service", SERVICES)
def test_the_process_is_not_root_and_gets_signals_itself(service: str) -> None:
    stage = final_stage(service)
    user = re.findall(r"^USER (\d+):(\d+)$", stage, flags=re.MULTILINE)
    assert user, "runAsNonRoot needs a number"
    assert all(int(number) > 0 for number in user[-1])
    entry = re.findall(r"^ENTRYPOINT (.*)$", stage, flags=re.MULTILINE)
    assert len(entry) == 1
    assert f"vigorl_services.{service}" in json.loads(entry[0]), "the exec form; a shell would keep the signals"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_says_what_it_is(service: str) -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", final_stage(service)))
    assert labels >= {"title", "description", "licenses", "version", "revision", "base.name"}


@pytest.mark.parametrize("service", SERVICES)
def test_settings_of_pip_reach_no_layer(service: str) -> None:
    text = dockerfile(service).replace("\\\n", " ")
    for line in text.splitlines():
        assert not re.match(r"(COPY|ADD|ENV|ARG)\b.*(pip\.conf|PIP_|TOKEN=|PASSWORD|SECRET|KEY=)", line), line
        if re.match(r"RUN .*pip install", line) and "--no-index" not in line:
            assert "--mount=type=secret,id=pip.conf" in line, line


def test_the_context_holds_only_what_is_named() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert {line for line in lines if line.startswith("!")} == {
        "!pyproject.toml",
        "!README.md",
        "!LICENSE",
        "!constraints-cpu.txt",
        "!vigorl_lib",
        "!services",
    }


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (["enviroment"], {}, "no image is called enviroment"),
        (["environment"], {"VARIANT": "cuda"}, "environment has no variant cuda"),
        (["trainer"], {"VARIANT": "vllm-cpu"}, "trainer has no variant vllm-cpu"),
        (["policy"], {"BUILDER": "kaniko"}, "BUILDER is buildah or docker"),
    ],
)
def test_a_wrong_request_is_one_line_before_anything_is_built(
    arguments: list[str], settings: dict[str, str], words: str
) -> None:
    done = _build(arguments, **{"BUILDER": "buildah", **settings})
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert words in done.stderr


def _build(services: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(REPOSITORY / "services" / "build.sh"), *services],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def _podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """Service → its image, built from the base, and with the settings, that the caller's environment names."""
    missing = [tool for tool in ("buildah", "podman") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if not os.environ.get("BASE"):
        pytest.skip("set BASE to a base image that is here, and see docs/images.md for the rest")
    services = [*SMALL, "policy"]
    done = _build(services, BUILDER="buildah", REGISTRY="localhost/vigorl", TAG=TAG)
    assert done.returncode == 0, done.stderr[-4000:]
    return {service: f"localhost/vigorl/{service}:{TAG}" for service in services}


@contextmanager
def container(image: str, folder: Path, config: dict[str, object]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A container's name and process: not root, read-only root file system, no capabilities, memory for /tmp."""
    # pytest's folders are their owner's alone.
    folder.chmod(0o755)
    (folder / "config.json").write_text(json.dumps(config))
    name = f"vigorl-test-{uuid.uuid4().hex[:8]}"
    restrictions = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
    command = ["podman", "run", "--rm", "--name", name, "--network", "host", *ULIMITS, *restrictions]
    command += ["-v", f"{folder}:/etc/vigorl:ro", image, "--config", "/etc/vigorl/config.json"]
    command += ["--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield name, child
        finally:
            if child.poll() is None:
                _podman("kill", name)


def _config(service: str, folder: Path) -> dict[str, object]:
    if service == "policy":
        return {"policy": {"name": "student", "model": "/etc/vigorl/model"}}
    if service == "search":
        (folder / "root").mkdir()
        return {"root": "/etc/vigorl/root", "services": {"policies": {"student": "127.0.0.1:1"}}}
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("service", [*SMALL, "policy"])
def test_a_service_runs_from_its_image_as_restricted_as_a_pod_and_ends_on_sigterm(
    service: str, images: dict[str, str], tmp_path: Path, tiny_folder: Path
) -> None:
    if service == "policy":
        shutil.copytree(tiny_folder, tmp_path / "model")
        for file in (tmp_path / "model").iterdir():
            file.chmod(0o644)
        (tmp_path / "model").chmod(0o755)
    with container(images[service], tmp_path, _config(service, tmp_path)) as (name, child):
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.stderr and child.stderr.read()
        with grpc.insecure_channel(json.loads(line)["address"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for asked in ("", "liveness"):
                answer = health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=ANSWER_TIMEOUT_S)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert _podman("exec", name, "id", "-u").stdout.strip() == "10001"
        assert "Read-only" in _podman("exec", name, "touch", "/opt/vigorl/file").stderr
        assert _podman("exec", name, "find", "/etc", "-name", "pip.conf").stdout == ""
        stopped = _podman("kill", "--signal", "TERM", name)
        assert stopped.returncode == 0, stopped.stderr
        assert child.wait(ANSWER_TIMEOUT_S) == 0


@pytest.mark.slow
@pytest.mark.parametrize("service", SMALL)
def test_an_image_without_torch_is_small(service: str, images: dict[str, str]) -> None:
    size = int(_podman("image", "inspect", "--format", "{{.Size}}", images[service]).stdout)
    assert size < SMALL_BYTES, f"{size / 1e6:.0f} MB"


@pytest.mark.slow
def test_nothing_of_the_builders_settings_is_in_an_image(images: dict[str, str]) -> None:
    settings = Path(os.environ["PIP_CONF"]).read_text().split() if os.environ.get("PIP_CONF") else []
    private = [word for word in settings if "/" in word]
    for image in images.values():
        described = _podman("image", "inspect", image).stdout + _podman("history", "--no-trunc", image).stdout
        assert [word for word in private if word in described] == []
