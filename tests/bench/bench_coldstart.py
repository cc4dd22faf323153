"""Seconds from starting a service's process until it says that it is ready, one after the other."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.bench.tiny import tiny_model
from vigorl_lib.jobs.local import Services


def run() -> dict[str, float]:
    figures = {}
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        model = {"name": "tiny", "model": str(tiny_model())}
        targets = {}
        for name, config in (
            ("environment", {}),
            ("reward", {}),
            ("policy", {"policy": model}),
            ("search", {"root": folder, "services": targets}),
        ):
            begin = time.monotonic()
            services.launch(name, name, config)
            address = services.wait_ready(name)
            figures[f"{name}_s"] = time.monotonic() - begin
            targets |= {"policies": {"tiny": address}} if name == "policy" else {name: address}
    return figures
