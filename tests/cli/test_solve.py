"""`vigorl solve` takes any picture to an answer or a typed end, and to an annotated PNG."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from tests.pictures import encoded
from vigorl_lib.cli.solve import solve
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore


def test_a_photograph_goes_through_solve_to_an_annotated_picture(tmp_path: Path, tiny_folder: Path) -> None:
    """A random model says nothing sensible about a photograph; it must still end in a typed way and be drawn."""
    from skimage import data

    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    Image.fromarray(np.asarray(data.astronaut())[:300, :400]).save(photo)
    command = [sys.executable, "-m", "vigorl_lib.cli.main", "solve", "--image", str(photo), "--question", "Who?"]
    command += ["--policy", str(tiny_folder), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "answer: " in result.stdout
    assert "Traceback" not in result.stderr
    assert Image.open(out).size[0] >= 400


def test_examples_before_the_question_are_read_from_the_recipes_storage(tmp_path: Path, tiny_folder: Path) -> None:
    picture, recipe = tmp_path / "picture.png", tmp_path / "shot.yaml"
    picture.write_bytes(encoded(112, 112))
    shown = ImageStore(FolderStorage(tmp_path / "root")).put(encoded(56, 56, color=9))
    reply = "<think> At (9, 9). </think> <answer> pink </answer>"
    shot = {"image": shown.sha256, "question": "Which color?", "replies": [reply]}
    recipe.write_text(json.dumps({"extends": "quickstart", "task": {"few_shot": [shot]}}), encoding="utf-8")
    asked = ["--image", str(picture), "--question", "And this?", "--policy", str(tiny_folder), "--recipe", str(recipe)]
    result = CliRunner().invoke(solve, [*asked, "--set", f"root={tmp_path / 'root'}"])
    assert result.exit_code == 0, result.output
    assert "answer: " in result.output
    elsewhere = CliRunner().invoke(solve, [*asked, "--set", f"root={tmp_path / 'empty'}"])
    assert "no object images/sha256/" in str(elsewhere.exception)
