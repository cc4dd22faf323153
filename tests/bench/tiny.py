"""A tiny random model on disk, made once per benchmark run in a process of its own."""

from __future__ import annotations

from pathlib import Path

from vigorl_lib.cli.programs import run_vigorl


def tiny_model() -> Path:
    folder = Path("build") / "bench" / "tiny"
    if not (folder / "config.json").exists():
        run_vigorl("data", "tiny-model", str(folder), log=folder.parent / "tiny.log")
    return folder.resolve()
