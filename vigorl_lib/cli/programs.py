"""Other commands of this program as processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

from vigorl_lib.jobs.local import LocalProcess


def run_vigorl(*arguments: str, log: Path) -> None:
    """Run `vigorl …` to its end, its output into `log`. Raises ProcessError."""
    command = [sys.executable, "-m", "vigorl_lib.cli.main", *arguments]
    process = LocalProcess(f"vigorl {arguments[0]}", command, log)
    try:
        process.start().check()
    finally:
        process.stop()
