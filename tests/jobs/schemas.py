"""The operators' own schemas, from VIGORL_SCHEMA_DIR or the folder of shared data beside the checkout."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(os.environ.get("VIGORL_SCHEMA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data")


@functools.cache
def crd_schema(group: str, plural: str) -> Any:
    """The schema of a custom resource with unknown fields refused, as strict field validation does; None without it."""
    path = FOLDER / f"{group}_{plural}.yaml"
    if not path.is_file():
        return None
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return _closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("x-kubernetes-int-or-string"):
        closed.pop("anyOf", None)
        closed.pop("type", None)
    open_ended = "additionalProperties" in closed or closed.get("x-kubernetes-preserve-unknown-fields")
    if closed.get("type") == "object" and "properties" in closed and not open_ended:
        closed["additionalProperties"] = False
    return closed
