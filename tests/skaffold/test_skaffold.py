"""skaffold.yaml: valid by its schema, and everything that it names is there. skaffold itself is not run.

Profiles are applied as skaffold does (JSON Patch), and what a profile installs is rendered with real helm.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.render import containers, helm, pods
from tests.jobs.schemas import FOLDER

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
PROFILES = [[], ["cpu"], ["gpu"], ["cpu", "dev"]]
TAG = "git-3141592"
SEALED = {"storage.s3.endpoint": "s3.example.com"}
"""The least that the chart's defaults need, where a profile brings no values file."""


def with_profiles(*names: str) -> dict[str, Any]:
    """The configuration that `skaffold -p` makes of these profiles; only the operations that they use."""
    made = copy.deepcopy(CONFIG)
    profiles = {profile["name"]: profile for profile in made.pop("profiles")}
    for patch in (patch for name in names for patch in profiles[name]["patches"]):
        assert patch["op"] == "add"
        *parents, last = patch["path"].strip("/").split("/")
        node = made
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        assert last not in node, f"{patch['path']} is there already: two profiles would overwrite each other"
        node[last] = patch["value"]
    return made


def artifacts(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {artifact["image"]: artifact for artifact in config["build"]["artifacts"]}


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_it_is_valid_by_the_published_schema(profiles: list[str]) -> None:
    path = FOLDER / "skaffold-v4beta14.json"
    if not path.is_file():
        pytest.skip(f"no {path}; docs/cluster-client.md says where skaffold's schema comes from")
    validator = jsonschema.Draft7Validator(json.loads(path.read_text()))
    validator.validate(CONFIG)
    validator.validate(with_profiles(*profiles))
    assert CONFIG["build"]["tagPolicy"]["gitCommit"]["prefix"], "helm reads a commit of digits alone as a number"
    assert CONFIG["apiVersion"] == f"skaffold/{path.stem.removeprefix('skaffold-')}"


def test_every_image_is_built_from_its_dockerfile_and_tried() -> None:
    built = artifacts(CONFIG)
    folders = {path.parent.name for path in (ROOT / "services").glob("*/Dockerfile")}
    assert set(built) == {f"vigorl/{folder}" for folder in folders}
    for image, artifact in built.items():
        assert artifact["docker"]["dockerfile"] == f"services/{image.removeprefix('vigorl/')}/Dockerfile"
    assert [case["image"] for case in CONFIG["test"]] == list(built)
    for case in CONFIG["test"]:
        (test,) = case["custom"]
        assert subprocess.run(["bash", "-n", "-c", test["command"]], check=False).returncode == 0
        assert "$IMAGE" in test["command"]
        assert shlex.split(test["command"])[-1] == "--help"


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_build_arguments_are_those_that_the_dockerfile_has(profiles: list[str]) -> None:
    for artifact in artifacts(with_profiles(*profiles)).values():
        text = (ROOT / artifact["docker"]["dockerfile"]).read_text()
        declared = set(re.findall(r"^ARG (\w+)", text, flags=re.MULTILINE))
        assert set(artifact["docker"].get("buildArgs", {})) <= declared


def test_the_gpu_profile_builds_what_the_build_script_builds_for_cuda() -> None:
    script = (ROOT / "services" / "build.sh").read_text()
    built = artifacts(with_profiles("gpu"))
    for service in ("policy", "trainer"):
        found = re.search(rf'{service}:cuda\) echo "(.*)" ;;', script)
        assert found
        pairs = dict(word.split("=", 1) for word in found[1].split())
        wanted = {key: value.replace(":", " ") for key, value in pairs.items()}
        assert built[f"vigorl/{service}"]["docker"]["buildArgs"] == wanted


def installed(profiles: list[str]) -> tuple[dict[str, Any], ...]:
    """What helm renders with the values that skaffold would give it."""
    config = with_profiles(*profiles)
    (release,) = config["deploy"]["helm"]["releases"]
    values = {**({} if release.get("valuesFiles") else SEALED), **release.get("setValues", {})}
    for key, text in release["setValueTemplates"].items():
        values[key] = re.sub(r"\{\{\.IMAGE_(REPO|TAG)_vigorl_(\w+)\}\}", _image, text)
    flags = [f"--values={ROOT / path}" for path in release.get("valuesFiles", [])]
    flags += [
        f"--set={key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()
    ]
    result = helm("template", release["name"], str(ROOT / release["chartPath"]), *flags)
    assert result.returncode == 0, result.stderr
    return tuple(document for document in yaml.safe_load_all(result.stdout) if document)


def _image(found: re.Match[str]) -> str:
    assert f"vigorl/{found[2]}" in artifacts(CONFIG), f"no image is called {found[2]}"
    return f"registry.example.com/vigorl/{found[2]}" if found[1] == "REPO" else TAG


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_the_chart_takes_every_value_and_installs_only_images_that_were_built(profiles: list[str]) -> None:
    """The chart's schema refuses keys that it has not, so that rendering shows that each of them exists."""
    manifests = installed(profiles)
    ours = {
        container["image"]
        for name, pod in pods(manifests).items()
        for container in containers(pod)
        if "minio" not in name
    }
    built = {f"registry.example.com/{image}:{TAG}" for image in artifacts(CONFIG) if image != "vigorl/trainer"}
    assert ours == built


@pytest.mark.parametrize("profiles", PROFILES, ids="+".join)
def test_ports_are_forwarded_from_services_that_the_chart_makes(profiles: list[str]) -> None:
    services = {found["metadata"]["name"]: found for found in installed(profiles) if found["kind"] == "Service"}
    forwards = CONFIG["portForward"]
    for forward in forwards:
        assert forward["port"] in [port["port"] for port in services[forward["resourceName"]]["spec"]["ports"]]
    assert len({forward["localPort"] for forward in forwards}) == len(forwards)


def test_synchronised_files_land_where_the_image_has_its_code_on_a_volume_that_can_be_written() -> None:
    built = artifacts(with_profiles("cpu", "dev"))
    synced = {image: artifact for image, artifact in built.items() if "sync" in artifact}
    assert set(synced) == set(built) - {"vigorl/trainer"}, "all that the chart installs"
    for artifact in synced.values():
        found = re.search(r"PYTHONPATH=(\S+)", (ROOT / artifact["docker"]["dockerfile"]).read_text())
        assert found
        code = Path(found[1])
        landed = {str(destination(ROOT / path, artifact["sync"]["manual"])) for path in SAMPLES}
        assert landed == {str(code / path) for path in SAMPLES.values()}
    for manifest in installed(["cpu", "dev"]):
        if manifest["kind"] == "Deployment" and "minio" not in manifest["metadata"]["name"]:
            pod = manifest["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert not mounts[str(code)].get("readOnly", False)
            assert container["securityContext"]["readOnlyRootFilesystem"]
            copied = next(first for first in pod["initContainers"] if first["name"] == "code")
            assert copied["image"] == container["image"]
            assert [mount["name"] for mount in copied["volumeMounts"]] == [mounts[str(code)]["name"]]


@pytest.mark.skipif(os.geteuid() != 0, reason="a volume's folder is root's and the pod's user another: needs root")
def test_the_image_fills_a_volume_whose_folder_belongs_to_root() -> None:
    deployments = (found for found in installed(["cpu", "dev"]) if found["metadata"]["name"] == "vigorl-search")
    (pod,) = (found["spec"]["template"]["spec"] for found in deployments if found["kind"] == "Deployment")
    with tempfile.TemporaryDirectory() as folder:
        image, volume = Path(folder, "image"), Path(folder, "volume")
        (image / "vigorl_lib").mkdir(parents=True)
        (image / "vigorl_lib" / "errors.py").touch()
        volume.mkdir()
        os.chmod(folder, 0o755)
        volume.chmod(0o777)
        words = [
            word.replace("/opt/vigorl", str(image)).replace("/code", str(volume))
            for word in pod["initContainers"][0]["command"]
        ]
        subprocess.run(words, check=True, user=10001, group=10001, extra_groups=[])
        assert (volume / "vigorl_lib" / "errors.py").stat().st_uid == 10001


SAMPLES = {
    "vigorl_lib/rpc/server.py": "vigorl_lib/rpc/server.py",
    "vigorl_lib/prompts/__init__.py": "vigorl_lib/prompts/__init__.py",
    "services/reward/server.py": "vigorl_services/reward/server.py",
    "services/settings.py": "vigorl_services/settings.py",
}
"""Files of the tree, and what they are called below the image's folder of code."""


def destination(path: Path, rules: list[dict[str, str]]) -> Path:
    """Where skaffold's first matching rule copies a file: below `dest`, by its path without `strip`."""
    rule = next(rule for rule in rules if path in ROOT.glob(rule["src"]))
    return Path(rule["dest"]) / str(path.relative_to(ROOT)).removeprefix(rule.get("strip", ""))


def test_without_the_switch_no_pod_can_write_its_code() -> None:
    for pod in pods(installed([])).values():
        assert all(mount["mountPath"] != "/opt/vigorl" for one in containers(pod) for mount in one["volumeMounts"])
