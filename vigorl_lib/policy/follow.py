"""Keeps a policy at the version that storage wants: `CURRENT` below its run's weights.

Desired state lives in storage, so a replica that nobody tells of an update, because it was added or restarted or
because a message went to another one, comes to it by itself. `UpdateWeights` only hurries this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from vigorl_lib.errors import VigorlError
from vigorl_lib.policy.base import Policy
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.current import read_current

log = logging.getLogger(__name__)


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


async def _follow(policy: Policy, root: str, run_id: str, every_s: float) -> None:
    storage = open_storage(root)
    problem = ""
    while True:
        await asyncio.sleep(every_s)
        try:
            current = await asyncio.to_thread(read_current, storage)
            if current is not None and current.version > (await policy.info()).version:
                await policy.update_weights(version=current.version, uri=current.uri, run_id=run_id)
            problem = ""
        except VigorlError as error:
            # Said once: storage that is away for an hour should not fill the log.
            if problem != error.message:
                log.warning("the weights that storage wants are not loaded: %s", error.message)
            problem = error.message
