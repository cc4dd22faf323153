"""The whole story with small numbers, through real processes; killed with -9 along the way, it continues.

This is about the machinery: with so few steps the model learns nothing, and nothing is asserted of it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

SMALL = {
    "captions": ["sft.steps=4", "sft.checkpoint.every=2", "sft.log_every=1"],
    "sft": ["sft.steps=4", "sft.checkpoint.every=2", "sft.log_every=1"],
    "mix": ["sft.steps=2", "sft.log_every=1"],
    "student-search": ["search.simulations=1", "search.children=2"],
    # A model that knows nothing earns nothing: without this no group would be trained on.
    "grpo": ["grpo.steps=2", "grpo.prompts=2", "grpo.group_size=2", "grpo.drop_zero_variance=false"],
}
SIZES = ["train=40", "validation=6", "test=12", "captions=40"]
TIMEOUT_S = 420.0


def command(root: Path) -> list[str]:
    line = [sys.executable, "-m", "vigorl_lib.cli.main", "quickstart", "--root", str(root)]
    line += [f"--set=synthetic.{size}" for size in SIZES]
    return line + [f"--stage-set={stage}:{value}" for stage, values in SMALL.items() for value in values]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def kill_when(root: Path, appears: str) -> bool:
    """Run until a file that matches appears, then kill with -9; False if the run ended before."""
    process = subprocess.Popen(
        command(root), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if any(root.glob(appears)):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.05)
    process.kill()
    process.wait()
    return False


def test_quickstart_survives_kills_and_ends_with_table_and_report(tmp_path: Path) -> None:
    root = tmp_path / "run"
    killed = [
        kill_when(root, "datasets/*/*.jsonl"),
        kill_when(root, "runs/quickstart/captions/checkpoints/*/COMMITTED"),
        kill_when(root, "runs/quickstart/search/*/*"),
        kill_when(root, "runs/quickstart/grpo/trajectories/*/*"),
        kill_when(root, "runs/quickstart/evaluation/sft/single_turn/*"),
    ]
    assert any(killed)
    result = subprocess.run(
        command(root), env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "two-turn SFT" in result.stdout
    assert "report: " in result.stdout
    results = json.loads((root / "runs/quickstart/results.json").read_text())
    cells = {(cell["policy"], cell["mode"]): cell for cell in results["cells"]}
    assert set(cells) == {(p, m) for p in ("captions", "sft", "mix", "grpo") for m in ("single_turn", "multi_turn")}
    assert all(cell["accuracy"]["n"] == 12 for cell in cells.values())
    page = (root / "runs/quickstart/report.html").read_text()
    assert "scripted teacher" in page
    assert "colour ramp" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    # Done is done: the same command again repeats nothing.
    begin = time.monotonic()
    again = subprocess.run(command(root), env=environment(), capture_output=True, text=True, check=True)
    assert time.monotonic() - begin < 10
    assert "▸" not in again.stderr
