"""Seeds as paths: every random choice has a name, and its seed follows from the name alone.

`derive_seed(run_seed, "example-7", 3)` is the same number on every machine and in every order of
execution, which is what makes a resumed run continue with the same draws.
"""

from __future__ import annotations

import hashlib


def derive_seed(*path: int | str) -> int:
    """A 31-bit seed for the given path of names; non-negative, so every sampler takes it."""
    text = "\x1f".join([f"{type(part).__name__}:{part}" for part in path])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
