"""A small run's storage for the training benchmarks: scenes, captions and a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.bench.tiny import tiny_model
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.data import make_synthetic_data
from vigorl_lib.recipes.schema import Recipe

FOLDER = Path("build") / "bench" / "training"


def prepare(name: str) -> Path:
    """The root of one benchmark: an empty run beside data that is made once."""
    root = FOLDER.resolve() / name
    shutil.rmtree(root / "runs", ignore_errors=True)
    sizes = ("synthetic.train=64", "synthetic.validation=2", "synthetic.test=2", "synthetic.captions=512")
    make_synthetic_data(resolve("quickstart", (f"root={root}", *sizes)))
    shutil.copytree(tiny_model(), root / "models" / "tiny", dirs_exist_ok=True)
    return root


def recipe(name: str, root: Path, **values: Any) -> Recipe:
    return resolve(name, (f"root={root}", *(f"{key}={json.dumps(value)}" for key, value in values.items())))
