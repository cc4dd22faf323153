"""Which examples a process works on when several share a data set.

An example's shard follows from its id and the number of shards alone: not from its place, so that the same
example is dealt to the same shard when the split grows or only its first examples are taken, and the shard's
journal knows it. The price is that shards are even only on average. What is done with a shard is the caller's business.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from vigorl_lib.errors import ConfigError

INDEX_VARIABLE, COUNT_VARIABLE = "JOB_COMPLETION_INDEX", "VIGORL_SHARDS"
"""An Indexed Job sets the first in each of its pods; the second is ours."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` (from 0) of `count`. Raises ConfigError (SHARD_INVALID)."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise _invalid(f"{self.index}/{self.count}")

    def holds(self, example_id: str) -> bool:
        return shard_of(example_id, self.count) == self.index


ALL = Shard()


def shard_of(example_id: str, count: int) -> int:
    """The index of the shard that an example belongs to, of `count`; the same in every process and release."""
    return int.from_bytes(hashlib.sha256(example_id.encode()).digest()[:8]) % count


def parse_shard(text: str) -> Shard:
    """Read `INDEX/COUNT`. Raises ConfigError (SHARD_INVALID)."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise _invalid(text)
    return Shard(int(match[1]), int(match[2]))


def shard_from_environment(environment: Mapping[str, str]) -> Shard:
    """The shard of an Indexed Job's pod; all of the data set where the environment tells of no shards.

    Raises ConfigError (SHARD_INVALID), also where only one half is told: work would be done several times.
    """
    index, count = environment.get(INDEX_VARIABLE), environment.get(COUNT_VARIABLE)
    if count is not None:
        return parse_shard(f"{index}/{count}")
    # A Job with a single pod numbers it, too.
    if index not in (None, "0"):
        raise ConfigError(
            f"{INDEX_VARIABLE} is {index}, but {COUNT_VARIABLE} does not say of how many; set it to the Job's "
            "completions or give --shard INDEX/COUNT",
            reason="SHARD_INVALID",
        )
    return Shard()


def _invalid(found: str) -> ConfigError:
    return ConfigError(
        f"--shard ({INDEX_VARIABLE}/{COUNT_VARIABLE}): expected INDEX/COUNT with 0 <= INDEX < COUNT, such as 0/4, "
        f"found {found!r}",
        reason="SHARD_INVALID",
    )
