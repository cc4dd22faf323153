"""How many samples are asked of a policy at a time, and whose turn it is.

`PacedPolicy` stands before a policy that many trees share. Its limit follows the policy's load as a congestion
window does (additive increase, multiplicative decrease): it grows while answers come without much waiting, and
shrinks when the policy refuses for load or tells that a request waited in its queue for longer than it was worked
on. Whoever must wait is let in tree by tree in turn, so that a wide tree takes no more than its share. It
changes nothing in what is asked or answered.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextvars import ContextVar

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import VigorlError
from vigorl_lib.policy.base import Generation, Policy, Sampling
from vigorl_lib.policy.wrapped import WrappedPolicy

asking_for: ContextVar[str] = ContextVar("asking_for", default="")
"""The tree on whose behalf this task works."""

FIRST_LIMIT = 64
DECREASE = 0.7
"""What is left of the limit after a sign of congestion."""
MIN_QUEUE_S = 0.05
"""Waiting shorter than this is no sign of congestion, however short the work."""
REFUSED = frozenset({"OVERLOADED", "ADMISSION_LIMIT"})
PATIENCE_S = 300.0
"""How long a request that is refused for load is asked again."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0


class FairGate:
    """Lets samples in up to `limit`, the trees that wait in turn. A request larger than the limit goes in alone."""

    def __init__(self, limit: int) -> None:
        self.limit = float(limit)
        self.inside = 0
        self._waiting: OrderedDict[str, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    @property
    def full(self) -> bool:
        return bool(self._waiting)

    async def enter(self, tree: str, samples: int) -> None:
        if not self._waiting and self._fits(samples):
            self.inside += samples
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tree, deque()).append((samples, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                # It may have held up others that are smaller.
                self.let_in()
            else:
                self.leave(samples)
            raise

    def leave(self, samples: int) -> None:
        self.inside -= samples
        self.let_in()

    def let_in(self) -> None:
        """Give their turns to those that fit by now."""
        while self._waiting:
            tree, queue = next(iter(self._waiting.items()))
            samples, turn = queue[0]
            gone = turn.done()
            if not gone and not self._fits(samples):
                return
            queue.popleft()
            self._waiting.pop(tree)
            if queue:
                # To the end of the row.
                self._waiting[tree] = queue
            if not gone:
                self.inside += samples
                turn.set_result(None)

    def _fits(self, samples: int) -> bool:
        return self.inside == 0 or self.inside + samples <= self.limit


class PacedPolicy(WrappedPolicy):
    """Another policy, paced. A stream is not: a person waits for it."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._gate = FairGate(FIRST_LIMIT)
        self._steep = True
        """Until the first sign of congestion the limit doubles in the time of one answer."""
        self._slowed_at = 0.0

    @property
    def limit(self) -> int:
        """Samples in flight that are let in at this moment."""
        return int(self._gate.limit)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        """See `Policy.generate`. A refusal for load is asked again, up to `PATIENCE_S`."""
        end, wait_s = time.monotonic() + PATIENCE_S, FIRST_WAIT_S
        while True:
            await self._gate.enter(asking_for.get(), len(seeds))
            began = time.monotonic()
            try:
                generation = await self.inner.generate(
                    prompt,
                    seeds=seeds,
                    sampling=sampling,
                    min_policy_version=min_policy_version,
                    request_id=request_id,
                )
                self._answered(generation, len(seeds), began)
                return generation
            except VigorlError as error:
                if not _refused(error) or time.monotonic() + wait_s >= end:
                    raise
                self._slow_down(began)
            finally:
                self._gate.leave(len(seeds))
            await asyncio.sleep(wait_s * random.uniform(1.0, 1.5))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _answered(self, generation: Generation, samples: int, began: float) -> None:
        if generation.queue_seconds > max(MIN_QUEUE_S, generation.engine_seconds):
            self._slow_down(began)
        elif self._gate.full:
            # A limit that nobody reached says nothing about the policy.
            self._gate.limit += samples if self._steep else samples / self._gate.limit
            self._gate.let_in()

    def _slow_down(self, began: float) -> None:
        """Once for all requests that were in flight together: what they tell is the same congestion."""
        self._steep = False
        if began >= self._slowed_at:
            self._gate.limit = max(1.0, DECREASE * self._gate.limit)
            self._slowed_at = time.monotonic()


def _refused(error: VigorlError) -> bool:
    return error.infrastructure and error.reason in REFUSED
