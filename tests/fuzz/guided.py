"""`python -m tests.fuzz.guided TARGET SECONDS`: fuzz one target, guided by coverage, with Atheris.

`pip install atheris` first. An input that breaks the target is printed and written to a file, and the exit status is
not 0. Options of libFuzzer may follow.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import atheris

# Only what is imported in here is measured, so this comes before everything of ours.
with atheris.instrument_imports(include=["vigorl_lib", "PIL", "tests.fuzz.targets"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    target, seconds, *options = sys.argv[1:]
    # Pillow warns of every odd tag; a defect is what it raises.
    warnings.filterwarnings("ignore", module="PIL")
    with tempfile.TemporaryDirectory() as folder:
        for index, data in enumerate(seeds(target)):
            (Path(folder) / str(index)).write_bytes(data)
        limits = [f"-max_total_time={float(seconds):.0f}", "-max_len=4096", *options]
        atheris.Setup([sys.argv[0], folder, *limits], TARGETS[target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
