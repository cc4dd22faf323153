"""Recipes and processes for the tests of training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.training.conftest import CAPTIONS
from vigorl_lib.storage.base import Storage

DEADLINE_S = 120.0
ENGINE = {"learning_rate": 2e-3, "micro_batch": 8, "schedule": {"decay": "linear", "warmup_steps": 3}}


def sft_values(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "init": "tiny",
        "sources": [{"chains": CAPTIONS}],
        "steps": 12,
        "batch": 8,
        "engine": ENGINE,
        "checkpoint": {"every": 4},
    }
    return values | changes


def write_recipe(storage: Storage, **sections: Any) -> Path:
    """A recipe file beside the storage's root."""
    path = Path(storage.uri).parent / "recipe.yaml"
    path.write_text(yaml.safe_dump({"root": storage.uri, "run_id": "run", **sections}), encoding="utf-8")
    return path


def trainer(recipe: Path, command: str, *options: str, processes: int = 1) -> subprocess.Popen[bytes]:
    """`python -m vigorl_services.trainer`, under torchrun where there are several processes."""
    module = ["-m", "vigorl_services.trainer", command, "--recipe", str(recipe), *options]
    launch: Sequence[str] = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    command_line = [sys.executable, *([*launch, *rendezvous] if processes > 1 else []), *module]
    return subprocess.Popen(command_line, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Until the condition holds; fails if the process ends or the deadline passes first."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
