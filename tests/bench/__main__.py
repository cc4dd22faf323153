"""Run benchmarks: one table on stdout, `build/bench/<name>.json` for each.

A benchmark is a module of this package with `run() -> dict[str, float]`; its first docstring line says
what it measures. Figures of one run are taken side by side in one process tree, so ratios between them
hold on a shared machine where absolute times do not.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import platform
import sys
from pathlib import Path

NAMES = ("policy", "vllm", "environment", "search", "rollout", "sft", "grpo", "evaluation", "coldstart", "weights")
FOLDER = Path("build") / "bench"


def machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def main(argv: list[str]) -> int:
    wanted = NAMES if not argv or argv == ["all"] else tuple(argv)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"machine: {machine()}\n")
    for name in wanted:
        module = importlib.import_module(f"tests.bench.bench_{name}")
        print(f"{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        figures = module.run()
        record = {
            "name": name,
            "machine": machine(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "figures": {key: round(float(value), 4) for key, value in figures.items()},
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for key, value in record["figures"].items():
            print(f"  {key:<36} {value:>12,.4g}")
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
