"""Wrong input gives one clear line, the right exit code and no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

RUN = [sys.executable, "-m", "vigorl_lib.cli.main"]


def vigorl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "x.png"
    Image.new("RGB", (64, 64), "white").save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search", "--recipe", "quickstart-serch"], "did you mean 'quickstart-search'"),
        (["search", "--set", "search.simulation=3"], "did you mean 'simulations'"),
        (["search", "--set", "search.simulations=many"], "search.simulations"),
        (["search", "--set", "nonsense"], "expected --set key.path=value"),
        (["quickstart", "--stage-set", "capshuns:sft.steps=1"], "expected STAGE:KEY=VALUE"),
        (["eval", "--root", "/nonexistent-root-of-vigorl"], "visual-search"),
    ],
)
def test_wrong_settings_are_one_line(arguments: list[str], told: str) -> None:
    result = vigorl(*arguments)
    assert result.returncode == 2, result.stderr
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_missing_image_names_the_file(tmp_path: Path) -> None:
    result = vigorl("solve", "--image", str(tmp_path / "no.png"), "--question", "?", "--policy", str(tmp_path))
    assert result.returncode == 2
    assert "no.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_unreadable_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(b"no image at all")
    result = vigorl("solve", "--image", str(path), "--question", "?", "--policy", str(tmp_path))
    assert result.returncode == 2
    assert "expected" in result.stderr
    assert "Traceback" not in result.stderr


def test_wrong_checkpoint_names_what_is_missing(tmp_path: Path, picture: Path) -> None:
    result = vigorl("solve", "--image", str(picture), "--question", "?", "--policy", str(tmp_path))
    assert result.returncode == 1
    assert "config.json" in result.stderr
    assert "Traceback" not in result.stderr


def test_busy_port_is_told_by_the_service(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = tmp_path / "reward.json"
        config.write_text("{}")
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "vigorl_services.reward", "--config", str(config), "--listen", listen]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert listen in result.stderr
    assert "Traceback" not in result.stderr


def test_dry_run_prints_the_recipe_and_does_nothing(tmp_path: Path) -> None:
    result = vigorl("train", "sft", "--recipe", "quickstart-sft", "--root", str(tmp_path / "r"), "--dry-run")
    assert result.returncode == 0
    assert '"steps"' in result.stdout
    assert not (tmp_path / "r").exists()
