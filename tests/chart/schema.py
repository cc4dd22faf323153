"""Writes the services' settings into charts/vigorl/values.schema.json: `python -m tests.chart.schema`.

The schema of the chart's own values is written by hand. What `config` of a component takes is the services' settings
classes: each is one line at the end of `definitions`, under its name. Nothing is required there, since the chart lays
`config` over what it knows itself.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic.json_schema import models_json_schema

from tests.chart.render import CHART
from vigorl_lib.rpc.server import ServiceSection
from vigorl_services.configs import SERVICE_CONFIGS

SCHEMA = CHART / "values.schema.json"
OMITTED = ("title", "default", "description", "required", "format")


def schema() -> str:
    """The whole file, its lines by hand as they are."""
    by_hand = [line for line in SCHEMA.read_text().splitlines() if not re.match(r'    "[A-Z]\w*": ', line)]
    own, end = by_hand[:-2], by_hand[-2:]
    definitions = [f'    "{name}": {json.dumps(found)}' for name, found in sorted(_definitions().items())]
    return "\n".join([*own[:-1], own[-1].rstrip(",") + ",", *",\n".join(definitions).split("\n"), *end]) + "\n"


def _definitions() -> dict[str, Any]:
    models = [(model, "validation") for model in (ServiceSection, *SERVICE_CONFIGS.values())]
    _, found = models_json_schema(models, ref_template="#/definitions/{model}")  # type: ignore[arg-type]
    return {name: _bare(definition) for name, definition in found["$defs"].items()}


def _bare(node: Any) -> Any:
    """Without what says nothing about which values are taken; keys of `properties` are names of settings."""
    if isinstance(node, list):
        return [_bare(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _bare(child) for name, child in value.items()} if key == "properties" else _bare(value)
        for key, value in node.items()
        if key not in OMITTED
    }


if __name__ == "__main__":
    SCHEMA.write_text(schema())
