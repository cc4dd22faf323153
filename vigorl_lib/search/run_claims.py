"""What the searches of one run have in common: how they ask, and among how many shards the examples were dealt.

Each search claims its run before it begins, so that trees of different policies or settings do not pass for one
data set, and a run that is dealt anew knows of the journals that other shards left. It holds no tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from vigorl_lib.errors import ConfigError
from vigorl_lib.policy.base import PolicyInfo
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.shards import Shard
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import CLOSED, OPEN

SETTINGS = "settings.json"
PACE = {"limit", "trees_in_flight", "simulations_in_flight", "deadline_s"}
"""Settings of the search that may change while a run goes on: how many trees, and how fast."""

TOLD = 3
"""Differences that a message names."""

Settings = dict[str, Any]


def search_settings(
    policy: PolicyInfo, task: TaskConfig, reward: RewardConfig, search: SearchConfig, *, seed: int, dataset: str
) -> Settings:
    """What makes two trees comparable; `dataset` is `name/split`."""
    return {
        "dataset": dataset,
        "policy": {
            "name": policy.name,
            "model": policy.model,
            "revision": policy.revision,
            "version": policy.version,
            "resize": asdict(policy.resize),
        },
        "task": task.model_dump(mode="json"),
        "reward": reward.model_dump(mode="json"),
        "search": search.model_dump(mode="json", exclude=PACE),
        "seed": seed,
    }


def claim_run(layout: RunLayout, settings: Settings) -> None:
    """Write down how a run is searched. Raises ConfigError (SEARCH_DIFFERS) where it holds trees made otherwise."""
    storage, key = layout.storage, f"{layout.searches}/{SETTINGS}"
    document = json.dumps(settings, indent=2).encode()
    if storage.create(key, document):
        return
    before = dict(_leaves(json.loads(storage.read(key))))
    now = dict(_leaves(settings))
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if not changed:
        return
    if not journals(layout):
        # A first attempt that was set up wrongly and found nothing binds nobody.
        storage.write(key, document)
        return
    told = [f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed[:TOLD]]
    told += [f"{len(changed) - TOLD} more"] if len(changed) > TOLD else []
    raise ConfigError(
        f"{layout.searches} in {storage.uri} was searched otherwise ({'; '.join(told)}); take another --run-id, or the "
        f"settings in {key}",
        reason="SEARCH_DIFFERS",
        changed=",".join(changed),
    )


def other_journals(layout: RunLayout, shard: Shard) -> list[str]:
    """Journals in which examples of this shard may stand, besides its own.

    None as long as the run was dealt among one number of shards alone; from the second on, all of them.
    """
    deals = f"{layout.searches}/shards-"
    mine = f"{deals}{shard.count}.json"
    layout.storage.create(mine, json.dumps({"shards": shard.count}).encode())
    if layout.storage.list(deals) == [mine]:
        return []
    return [prefix for prefix in journals(layout) if prefix != layout.search(shard.index)]


def journals(layout: RunLayout) -> list[str]:
    """Prefixes of the journals that a run has, sorted."""
    keys = (key for key in layout.storage.list(f"{layout.searches}/") if key.endswith((CLOSED, OPEN)))
    return sorted({key.rpartition("/")[0] for key in keys} - {layout.searches})


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of what is no mapping, with their values."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, part in value.items():
        yield from _leaves(part, f"{name}.{key}" if name else key)
