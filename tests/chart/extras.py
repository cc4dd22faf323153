"""Renders the chart with values given as a dictionary; each rendering is made once a session. Real helm; no cluster."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.tools import find_helm

CHART = Path(__file__).resolve().parents[2] / "charts" / "vigorl"
Document = dict[str, Any]

EXTERNAL = {"storage": {"s3": {"endpoint": "s3.example.com", "existingSecret": "vigorl-s3"}}}
"""The least that a rendering without MinIO needs."""


def helm(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    path = find_helm()
    if path is None:
        pytest.skip("no helm on the PATH and its package cannot be downloaded")
    return subprocess.run([str(path), *arguments], input=stdin, capture_output=True, text=True, check=False)


def documents(values: dict[str, Any]) -> list[Document]:
    """All manifests of release `t` in namespace `team`."""
    return [json.loads(text) for text in _rendered(json.dumps(values, sort_keys=True))]


def refusal(values: dict[str, Any]) -> str:
    """Why the chart does not render with these values."""
    result = _template(json.dumps(values))
    assert result.returncode != 0, "the chart renders"
    return result.stderr


def one(found: list[Document], kind: str, name: str) -> Document:
    """The manifest of that kind and name (without the release's name before it)."""
    (document,) = (d for d in found if d["kind"] == kind and d["metadata"]["name"] == f"t-vigorl{name}")
    return document


def kinds(found: list[Document], kind: str) -> list[Document]:
    return [document for document in found if document["kind"] == kind]


def pod_specs(found: list[Document]) -> list[Document]:
    """Of everything that runs a pod."""
    return [
        document["spec"] if document["kind"] == "Pod" else document["spec"]["template"]["spec"]
        for document in found
        if document["kind"] in ("Pod", "Deployment", "Job")
    ]


@functools.cache
def _rendered(values: str) -> tuple[str, ...]:
    result = _template(values)
    assert result.returncode == 0, result.stderr
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(json.dumps(document) for document in yaml.load_all(result.stdout, Loader=loader) if document)


def _template(values: str) -> subprocess.CompletedProcess[str]:
    return helm("template", "t", str(CHART), "--namespace", "team", "--values", "-", stdin=values)
