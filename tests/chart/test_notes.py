"""What the chart tells its reader is true: the commands of NOTES.txt parse and name what is there."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from tests.chart.extras import CHART, EXTERNAL, documents, helm
from tests.chart.readme import README, readme
from tests.parsing import parse
from vigorl_lib.cli.main import cli

SAFE = {**EXTERNAL, "auth": {"existingSecret": "tokens"}, "tls": {"existingSecret": "certificates", "mutual": True}}
CACHE = {"source": "s3://vigorl/m", "digest": f"sha256:{'a' * 64}"}
FULL = {
    "minio": {"enabled": True},
    "modelCache": {"enabled": True, "models": {"student": CACHE}},
    "fullnameOverride": "team-vlm",
}
JUDGED = {
    **EXTERNAL,
    "policies": {"judge": {"config": {"policy": {"model": "s3://vigorl/models/judge"}}}},
    "search": {"policies": ["student"]},
}
CASES = {"external": EXTERNAL, "safe": SAFE, "full": FULL, "judged": JUDGED}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Any], str]:
    """Values, and the notes that an installation with them prints."""
    values = CASES[request.param]
    arguments = ["t", str(CHART), "--namespace", "team", "--dry-run=client", "--values", "-"]
    result = helm("install", *arguments, stdin=json.dumps(values))
    assert result.returncode == 0, result.stderr
    return values, result.stdout.split("\nNOTES:\n")[1]


def commands(notes: str) -> list[list[str]]:
    """The words of each command line, with what stands in `$( )` as a command of its own."""
    lines = [line.strip().removesuffix("&") for line in notes.splitlines() if line.startswith("  ")]
    found = []
    for line in lines:
        inner = re.findall(r"\$\(([^)]*)\)", line)
        for text in inner or [line]:
            words = shlex.split(text.split(" | ")[0])
            if words and words[0] in ("kubectl", "helm", "vigorl"):
                found.append(words)
    return found


def test_every_vigorl_command_parses_against_the_real_one(
    case: tuple[dict[str, Any], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for written in re.findall(r"base64 -d > (\S+)", case[1]):
        Path(written).touch()
    ours = [words for words in commands(case[1]) if words[0] == "vigorl"]
    assert len(ours) == 2
    for words in ours:
        parse(words[1:])


def test_every_kubectl_command_names_what_the_release_makes_or_was_given(case: tuple[dict[str, Any], str]) -> None:
    values, notes = case
    there = {(d["kind"].lower(), d["metadata"]["name"]) for d in documents(values)}
    given = {("secret", name) for name in ("tokens", "certificates") if name in json.dumps(values)}
    kinds = {"deployment", "service", "secret", "persistentvolumeclaim"}
    named = set()
    for words in commands(notes):
        if words[0] == "vigorl":
            continue
        assert words[1:3] == ["-n", "team"]
        for index, word in enumerate(words):
            kind, _, name = word.partition("/")
            if kind in kinds and name:
                named.add((kind, name))
            elif word in kinds and words[3] in ("get", "delete"):
                named |= {(word, name) for name in words[index + 1 :] if not name.startswith(("-", "jsonpath"))}
    assert named
    assert named <= there | given
    if "minio" in values:
        assert {kind for kind, _ in named} == kinds


def test_keys_of_secrets_are_those_that_the_pods_read(case: tuple[dict[str, Any], str]) -> None:
    values, notes = case
    asked = re.findall(r"get secret (\S+) -o jsonpath='\{\.data\.(\S+)\}'", notes)
    text = json.dumps(documents(values))
    for secret, key in asked:
        plain = key.replace("\\", "")
        reference = f'"name": "{secret}", "key": "{plain}"', f'"key": "{plain}", "name": "{secret}"'
        assert any(form in text for form in reference) or f"/etc/vigorl/tls/{plain}" in text


def test_the_job_description_renders_jobs_for_this_release(case: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    values, notes = case
    block = notes.split("as cluster.yaml:\n\n")[1].split("\n\n")[0]
    described = tmp_path / "cluster.yaml"
    described.write_text("\n".join(line.removeprefix("  ") for line in block.splitlines()))
    (line,) = (words for words in commands(notes) if words[:2] == ["vigorl", "jobs"])
    for kind in ("sft", "evaluate"):
        arguments = [str(described) if word == "cluster.yaml" else word for word in line[1:]]
        arguments[arguments.index("submit") : arguments.index("sft") + 1] = ["render", kind]
        result = CliRunner().invoke(cli, arguments)
        assert result.exception is None, result.exception
    hosts = set(re.findall(r"dns:///([a-z0-9-]+)\.team\.svc", result.output))
    assert hosts
    assert hosts <= {d["metadata"]["name"] for d in documents(values) if d["kind"] == "Service"}
    secrets = {d["secret"]["secretName"] for d in _volumes(result.output) if "secret" in d}
    assert secrets == ({"certificates"} if "tls" in values else set())


def _volumes(manifests: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for document in yaml.safe_load_all(manifests):
        found += document["spec"]["template"]["spec"]["volumes"]
    return found


def test_the_question_goes_to_a_policy_that_search_may_ask(case: tuple[dict[str, Any], str]) -> None:
    (line,) = (words for words in commands(case[1]) if words[:2] == ["vigorl", "solve"])
    assert "policy=student" in line


def test_jobs_take_the_build_and_the_region_of_the_installation() -> None:
    values = {**EXTERNAL, "image": {"tag": "v1"}, "policyDefaults": {"gpus": 1}}
    values["storage"] = {"s3": {**EXTERNAL["storage"]["s3"], "region": "eu-central-1"}}
    for found, image, gpus in ((values, "trainer:v1-cuda", None), (EXTERNAL, "trainer:0.1.0.dev0", 0)):
        result = helm("install", "t", str(CHART), "--dry-run=client", "--values", "-", stdin=json.dumps(found))
        described = yaml.safe_load(result.stdout.split("as cluster.yaml:\n\n")[1].split("\n\n")[0])
        assert described["image"].endswith(f"/{image}")
        assert described.get("gpus") == gpus
        assert described["s3"]["region"] == found["storage"]["s3"].get("region", "us-east-1")


def test_what_is_unsafe_is_said(case: tuple[dict[str, Any], str]) -> None:
    values, notes = case
    assert ("no auth.existingSecret" in notes) is ("auth" not in values)
    assert ("archived upstream" in notes) is ("minio" in values)
    assert "without credentials" not in notes


def test_the_readme_is_what_the_values_file_says() -> None:
    assert README.read_text() == readme(), "stale: run `python -m tests.chart.readme`"
