"""Keeps a policy at the version that storage wants: `CURRENT` below its run's weights.

Desired state lives in storage, so a replica that nobody tells of an update, because it was added or restarted or
because a message went to another one, comes to it by itself. `UpdateWeights` only hurries this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from vigorl_lib.models.weights import wanted_weights
from vigorl_lib.policy.base import Policy

log = logging.getLogger(__name__)

MAX_PAUSE_S = 60.0
"""Longest wait between two tries to load what could not be loaded."""


@asynccontextmanager
async def follow_weights(policy: Policy, root: str, run_id: str, *, every_s: float) -> AsyncIterator[None]:
    """While the block runs, load what `CURRENT` below `root` names whenever it is newer than what the policy has."""
    task = asyncio.create_task(_follow(policy, root, run_id, every_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def catch_up(policy: Policy, root: str, run_id: str) -> None:
    """Load what `CURRENT` below `root` names if it is newer than what the policy has. Raises what an update raises."""
    current = await asyncio.to_thread(wanted_weights, root)
    if current is not None and current.version > (await policy.info()).version:
        await policy.update_weights(version=current.version, uri=current.uri, run_id=run_id)


async def _follow(policy: Policy, root: str, run_id: str, every_s: float) -> None:
    problem, pause_s = "", every_s
    while True:
        await asyncio.sleep(pause_s)
        try:
            await catch_up(policy, root, run_id)
            problem, pause_s = "", every_s
        except Exception as error:  # noqa: BLE001 - a follower that has ended would leave an old version for ever
            # Said once, and tried ever more seldom: a version that cannot be loaded stays so for long.
            if problem != str(error):
                log.warning("the weights that storage wants are not loaded: %s", error)
            problem, pause_s = str(error), min(2 * pause_s, max(MAX_PAUSE_S, every_s))
