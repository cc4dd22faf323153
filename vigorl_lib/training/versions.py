"""Weights on their way to the policy: it is told of each version that was published, and waited for.

What is published stands in storage (`vigorl_lib.training.weights`). Which version a step needs is the producer's
business. Without torch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.policy.base import Policy
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.weights import current_weights

log = logging.getLogger(__name__)

POLL_S = 0.02
MAX_POLL_S = 1.0
FOLLOW_S = 0.2
"""How often `follow` looks for a version."""


class PolicyVersions:
    """The versions of one run's policy. `timeout_s` is how long a version is waited for."""

    def __init__(self, policy: Policy, layout: RunLayout, *, timeout_s: float) -> None:
        self._policy, self._layout, self._timeout_s = policy, layout, timeout_s
        self._telling = asyncio.Lock()
        self.held = 0
        """The version that the policy was last known to hold."""

    async def reach(self, version: int) -> None:
        """Return once the policy holds at least `version`.

        Raises PolicyError (POLICY_TOO_OLD) after `timeout_s`, and what the policy raises if it is no passing fault.
        """
        deadline = time.monotonic() + self._timeout_s
        pause, problem = POLL_S, "the learner has not published it"
        while time.monotonic() < deadline:
            try:
                await self._tell()
                if self.held >= version:
                    return
            except VigorlError as error:
                if not error.infrastructure:
                    raise
                problem = f"{error.reason}: {error.message}"
                log.warning("waiting for version %d: %s", version, problem)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_POLL_S)
        raise PolicyError(
            f"waited {self._timeout_s:.0f} s for version {version} of the weights: {problem}",
            reason="POLICY_TOO_OLD",
            version=version,
        )

    async def follow(self, on_new: Callable[[], None]) -> None:
        """Tell the policy of each version as it comes, and then call `on_new`; ends when it is cancelled.

        What fails here is raised by `reach` once a version is needed.
        """
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                wanted = await asyncio.to_thread(current_weights, self._layout)
                if wanted is not None and wanted.version > self.held:
                    await self._tell()
                    on_new()
            except VigorlError as error:
                log.info("a new version has to wait: %s: %s", error.reason, error.message)

    async def _tell(self) -> None:
        """Tell the policy of the newest version if it holds an older one."""
        async with self._telling:
            held = (await self._policy.info()).version
            wanted = await asyncio.to_thread(current_weights, self._layout)
            if wanted is not None and wanted.version > held:
                run_id = self._layout.run_id
                held = (
                    await self._policy.update_weights(version=wanted.version, uri=wanted.uri, run_id=run_id)
                ).version
            self.held = held
