"""The base of all settings and the one loader.

A `Section` is a frozen pydantic model that refuses unknown keys; each room declares its own beside
its code. `load` reads a recipe (a name in the package or a file), follows `extends`, then applies
the environment (`VIGORL_A__B=c`) and `--set a.b=c` overrides, in that order of strength. Nothing
else reads settings from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vigorl_lib.errors import ConfigError

ENVIRONMENT_PREFIX = "VIGORL_"

ENVIRONMENT = "environment"
CREDENTIAL_SECTIONS = ("auth", "openai", "s3", "state")
"""Sections that come from the environment alone; they are part of no recipe and of no resolved config."""


class Section(BaseModel):
    """Base of every settings class."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


SectionT = TypeVar("SectionT", bound=BaseModel)


def load(
    schema: type[SectionT],
    recipe: str,
    *,
    folder: Path,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> SectionT:
    """Resolve `recipe` against `schema`.

    `recipe` is a path to a YAML file or the name of one in `folder`, or several joined by `+`. Raises ConfigError
    (RECIPE_UNKNOWN, RECIPE_INVALID, OVERRIDE_INVALID) with one line that names the key.
    """
    values = read_recipe(recipe, folder)
    for path, value in _environment_overrides(os.environ if environment is None else environment):
        _assign(values, path, value)
    for override in overrides:
        _assign(values, *parse_override(override))
    return validate(schema, values, source=recipe)


def validate(schema: type[SectionT], values: Mapping[str, Any], *, source: str) -> SectionT:
    """Validate plain values; a ConfigError names the key, what was expected and what was found."""
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = _did_you_mean(schema, first["loc"])
            message = f"{source}: unknown key {key!r}{hint}"
        else:
            # What stands in the environment may be a credential under a misspelt name.
            found = "" if source == ENVIRONMENT else f", found {first.get('input')!r}"
            message = f"{source}: {key}: {first['msg'].removeprefix('Value error, ')}{found}"
        more = len(error.errors()) - 1
        suffix = f" (and {more} more)" if more else ""
        raise ConfigError(message + suffix, reason="RECIPE_INVALID", key=key) from None


def read_recipe(recipe: str, folder: Path) -> dict[str, Any]:
    """Plain values of a recipe with what it `extends`, a name or a list of them, merged below it.

    Of `a+b`, as of a list, the later one is the stronger.
    """
    if "+" in recipe and not Path(recipe).is_file():
        return _merge_all(read_recipe(part, folder) for part in recipe.split("+"))
    path = Path(recipe) if recipe.endswith((".yaml", ".yml", ".json")) else folder / f"{recipe}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        close = get_close_matches(recipe, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
        raise ConfigError(f"no recipe {recipe!r}{hint}", reason="RECIPE_UNKNOWN", recipe=recipe)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected YAML text, found other bytes", reason="RECIPE_INVALID") from None
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"{path}: not valid YAML: {line}", reason="RECIPE_INVALID") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping at the top", reason="RECIPE_INVALID")
    parents = values.pop("extends", None) or []
    below = [parents] if isinstance(parents, str) else parents
    return _merge_all((*(read_recipe(parent, folder) for parent in below), values))


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=c` as a path and a YAML value."""
    path, separator, value = text.partition("=")
    if not separator or not path:
        raise ConfigError(f"expected --set key.path=value, found {text!r}", reason="OVERRIDE_INVALID")
    try:
        return path.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {text!r}: the value is not valid YAML", reason="OVERRIDE_INVALID") from None


def section_from_environment(
    schema: type[SectionT], name: str, environment: Mapping[str, str] | None = None
) -> SectionT | None:
    """One section from `VIGORL_<NAME>__<KEY>` alone, None where no such name is set."""
    prefix = f"{ENVIRONMENT_PREFIX}{name.upper()}__"
    found = os.environ if environment is None else environment
    values = {key.removeprefix(prefix).lower(): value for key, value in found.items() if key.startswith(prefix)}
    return validate(schema, values, source=ENVIRONMENT) if values else None


def _environment_overrides(environment: Mapping[str, str]) -> Iterable[tuple[list[str], Any]]:
    for name in sorted(environment):
        # A single word such as VIGORL_HOME is not a key of a recipe: keys of sections have `__` in them.
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            if path[0] in CREDENTIAL_SECTIONS:
                continue
            yield path, yaml.safe_load(environment[name])


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    node = values
    for part in path[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(path)}: {part!r} is not a section", reason="OVERRIDE_INVALID")
        node = child
    node[path[-1]] = value


def _merge_all(layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return reduce(_merge, layers, {})


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _did_you_mean(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    model: Any = schema
    for part in location[:-1]:
        field = model.model_fields.get(str(part)) if hasattr(model, "model_fields") else None
        if field is None:
            return ""
        model = field.annotation
    names = list(getattr(model, "model_fields", {}))
    close = get_close_matches(str(location[-1]), names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(names)}" if names else ""
