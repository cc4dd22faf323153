"""`python -m tests.fuzz`: fuzz one target or all of them for a time budget with Hypothesis.

An input that breaks a target is shrunk and printed, and the exit status is 1. `tests.fuzz.guided` is the same guided
by coverage.
"""

from __future__ import annotations

import argparse
import time
import warnings

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, mutated, seeds


def inputs(target: str) -> st.SearchStrategy[bytes]:
    """Bytes of any kind, and good inputs with damages."""
    damaged = st.builds(mutated, st.sampled_from(seeds(target)), st.integers(0, 2**64 - 1), st.integers(0, 8))
    return damaged | st.binary(max_size=200) | st.lists(damaged, max_size=3).map(b"".join)


def with_hypothesis(target: str, seconds: float, examples_a_round: int = 2000) -> int:
    """Fuzz one target; the number of inputs tried. What breaks it is raised, shrunk, with its input in a note."""
    tried, end, rounds = 0, time.monotonic() + seconds, 0

    def check(data: bytes) -> None:
        nonlocal tried
        # A round cannot be ended from outside; what is left of one after the budget costs nothing.
        if time.monotonic() < end:
            tried += 1
            TARGETS[target](data)

    limits = settings(
        max_examples=examples_a_round,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    while time.monotonic() < end:
        seed(rounds)(limits(given(inputs(target))(check)))()
        rounds += 1
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=("all", *TARGETS), default="all")
    parser.add_argument("--seconds", type=float, default=600.0, help="budget of all targets together")
    asked = parser.parse_args()
    # Pillow warns of every odd tag; a defect is what it raises.
    warnings.filterwarnings("ignore", module="PIL")
    names = list(TARGETS) if asked.target == "all" else [asked.target]
    for name in names:
        begun = time.monotonic()
        tried = with_hypothesis(name, asked.seconds / len(names))
        print(f"{name}: {tried} inputs in {time.monotonic() - begun:.0f} s, no finding", flush=True)


if __name__ == "__main__":
    main()
