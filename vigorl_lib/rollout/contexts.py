"""Contexts: `services` sections that a user keeps by name, one installation each, in a file like a kubeconfig.

A context says where the services of one installation are and how this user is known to them. It holds paths of
certificates and of a token's file, never a token. Which command uses which context is the command line's affair.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from vigorl_lib.config import Section, validate
from vigorl_lib.errors import ConfigError
from vigorl_lib.rollout.wiring import ServicesConfig

FILE_VARIABLE = "VIGORL_CONTEXTS"


class Contexts(Section):
    """What the file holds."""

    current: str = ""
    """Context of commands that are given none; empty where there is no such."""
    contexts: dict[str, ServicesConfig] = Field(default_factory=dict)

    def get(self, name: str | None = None) -> ServicesConfig:
        """The context `name`, or the current one. Raises ConfigError (CONTEXT_UNKNOWN)."""
        wanted = self.current if name is None else name
        if wanted not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            what = f"no context {wanted!r}" if wanted else "no current context"
            raise ConfigError(
                f"{what} (known: {known}); `vigorl context set NAME --target HOST:PORT` writes one",
                reason="CONTEXT_UNKNOWN",
                context=wanted,
            )
        return self.contexts[wanted]

    def put(self, name: str, context: ServicesConfig) -> Contexts:
        """With `name` written anew; the first context is the current one at once."""
        return Contexts(current=self.current or name, contexts={**self.contexts, name: context})

    def use(self, name: str) -> Contexts:
        """With `name` as the current one. Raises ConfigError (CONTEXT_UNKNOWN)."""
        self.get(name)
        return Contexts(current=name, contexts=self.contexts)

    def remove(self, name: str) -> Contexts:
        """Without `name`. Raises ConfigError (CONTEXT_UNKNOWN)."""
        self.get(name)
        others = {key: context for key, context in self.contexts.items() if key != name}
        return Contexts(current="" if self.current == name else self.current, contexts=others)


def contexts_path(environment: Mapping[str, str] | None = None) -> Path:
    """`$VIGORL_CONTEXTS`, or `vigorl/contexts.yaml` in the user's configuration folder (XDG)."""
    found = os.environ if environment is None else environment
    if found.get(FILE_VARIABLE):
        return Path(found[FILE_VARIABLE])
    folder = found.get("XDG_CONFIG_HOME")
    return (Path(folder) if folder else Path.home() / ".config") / "vigorl" / "contexts.yaml"


def read_contexts(path: Path) -> Contexts:
    """The contexts of a file, none where there is no file. Raises ConfigError (CONTEXTS_INVALID, RECIPE_INVALID)."""
    if not path.exists():
        return Contexts()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        line = str(error).replace("\n", " ")
        raise ConfigError(f"{path}: not valid YAML: {line}", reason="CONTEXTS_INVALID") from None
    return validate(Contexts, values, source=str(path))


def write_contexts(path: Path, contexts: Contexts) -> None:
    """Replace the file whole; nobody else may read it, since it says where somebody's keys are."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = yaml.safe_dump({"current": contexts.current, "contexts": _told(contexts)}, sort_keys=False)
    # mkstemp makes files of mode 0600.
    number, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def told(context: ServicesConfig) -> dict[str, Any]:
    """What a context says beyond the defaults, as plain values."""
    return context.model_dump(mode="json", exclude_defaults=True)


def as_overrides(context: ServicesConfig) -> tuple[str, ...]:
    """A context as overrides `services.KEY=VALUE` of a recipe; of `client`, only the keys that it sets."""
    values = told(context)
    client = values.pop("client", {})
    pairs = {**values, **{f"client.{key}": value for key, value in client.items()}}
    return tuple(f"services.{key}={json.dumps(value)}" for key, value in pairs.items())


def _told(contexts: Contexts) -> dict[str, Any]:
    return {name: told(context) for name, context in contexts.contexts.items()}
