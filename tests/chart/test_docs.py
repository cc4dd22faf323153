"""docs/kubernetes.md says what the chart does: its values render, and the keys it names are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.chart.render import CHART, render

PAGE = (CHART.parents[1] / "docs" / "kubernetes.md").read_text()
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def examples() -> list[dict[str, Any]]:
    """What the page shows as values of the chart, in blocks of YAML and in single indented lines."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    lines = re.findall(r"^    ([a-zA-Z]+: \{.*\})$", PAGE, re.MULTILINE)
    parsed = [yaml.safe_load(text) for text in blocks + lines]
    return [values for values in parsed if values.keys() <= VALUES.keys()]


@pytest.mark.parametrize("values", examples(), ids=lambda values: "-".join(values))
def test_an_example_of_values_renders(values: dict[str, Any]) -> None:
    flags = [f"--set-json={key}={json.dumps(value)}" for key, value in values.items()]
    assert render("cpu", *flags) != render("cpu")


def test_the_page_has_examples() -> None:
    assert len(examples()) >= 4


def paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield prefix + key
        yield from paths(value, f"{prefix}{key}.")


def test_keys_that_the_page_names_are_keys_of_the_chart() -> None:
    known = set(paths(VALUES))
    parts = "|".join(VALUES)
    named = set(re.findall(rf"`((?:{parts})(?:\.[A-Za-z0-9]+)+)(?::[^`]*)?`", PAGE))
    of_secrets = {"tls.crt", "tls.key"}
    assert named - of_secrets
    assert {name for name in named - of_secrets if not name.startswith("policies.")} <= known
