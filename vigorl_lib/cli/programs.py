"""Other commands of this program as processes of their own."""

from __future__ import annotations

import sys

from vigorl_lib.jobs.local import LocalProcess


def run_vigorl(*arguments: str) -> None:
    """Run `vigorl …` to its end. Raises ProcessError."""
    process = LocalProcess(f"vigorl {arguments[0]}", [sys.executable, "-m", "vigorl_lib.cli.main", *arguments])
    try:
        process.start().check()
    finally:
        process.stop()
