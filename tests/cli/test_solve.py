"""`vigorl solve` takes any picture to an answer or a typed end, and to an annotated PNG."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image


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
