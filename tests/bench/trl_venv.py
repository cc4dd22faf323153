"""A Python with TRL beside this one's packages, for comparisons only; installed once below `build/bench`."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

FOLDER = Path("build") / "bench" / "trl-venv"
PACKAGES = ("trl", "datasets", "multiprocess", "dill", "xxhash", "pandas", "accelerate")
"""What TRL needs to train; torch and transformers are those that we use."""


def trl_python() -> Path:
    """The interpreter; raises CalledProcessError where the packages cannot be installed."""
    python = FOLDER.resolve() / "bin" / "python"
    ready = FOLDER / "READY"
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        # Two benchmarks at once would clear what the other one installs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            _install(python)
            ready.touch()
    return python


def _install(python: Path) -> None:
    venv.create(FOLDER, with_pip=True, clear=True)
    ours = sysconfig.get_paths()["purelib"]
    site = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], text=True
    )
    # Behind the environment's own packages, so that what is missing there is taken from here.
    (Path(site.strip()) / "ours.pth").write_text(ours + "\n", encoding="utf-8")
    subprocess.check_call([python, "-m", "pip", "install", "-q", "--no-deps", *PACKAGES], stdout=sys.stderr)
