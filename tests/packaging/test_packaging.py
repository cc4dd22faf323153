"""The package installs what is in the tree, stays light to import, and its command answers at once."""

from __future__ import annotations

import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "deepspeed", "vllm", "pyarrow", "scipy")


def test_every_package_of_the_tree_is_installed() -> None:
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for top in ("vigorl_lib", "services")
        for path in (ROOT / top).rglob("__init__.py")
    }
    renamed = {
        name.replace("services", "vigorl_services", 1) if name.startswith("services") else name for name in found
    }
    assert declared == renamed


@pytest.mark.parametrize("module", ["vigorl_lib", "vigorl_lib.recipes.schema", "vigorl_lib.cli.main"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_help_answers_in_half_a_second() -> None:
    times = []
    for _ in range(3):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "vigorl_lib.cli.main", "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - begin)
    assert min(times) < 0.5


def test_wheel_holds_prompts_recipes_and_services(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for wanted in (
        "vigorl_lib/py.typed",
        "vigorl_lib/prompts/visual_search/multi_turn.txt",
        "vigorl_lib/recipes/quickstart.yaml",
        "vigorl_lib/report/style.css",
        "vigorl_lib/report/tree_page.css",
        "vigorl_lib/report/tree_page.html",
        "vigorl_lib/report/tree_page.js",
        "vigorl_services/policy/__main__.py",
    ):
        assert wanted in names
