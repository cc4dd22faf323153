"""Monte Carlo tree search over turns: which simulation comes next, how many at once, and when a tree is done.

Select a node, simulate, journal, add to the tree. Simulations of one tree may be in flight together; each is
committed whole when it is complete, so the journal's order is that of the completions. Alone, a tree with one
simulation in flight is deterministic for a seed. What a simulation does is `vigorl_lib.search.simulate`, scheduling
and resuming many trees `vigorl_lib.search.coordinator`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Prefix
from vigorl_lib.errors import StorageError, VigorlError
from vigorl_lib.reward.base import Reward
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import Entry, end_record, root_record, simulation_record
from vigorl_lib.search.pacing import asking_for
from vigorl_lib.search.select import select
from vigorl_lib.search.simulate import Found, Simulator
from vigorl_lib.search.tree import Node, Tree
from vigorl_lib.storage.images import ImageStore

Journal = Callable[[Entry], Awaitable[None]]
"""Makes a record durable. What is on disk may be ahead of memory, never behind it."""

logger = logging.getLogger(__name__)


class TreeSearch:
    """Searches one example after the other, or many at once; holds no state of any tree."""

    def __init__(
        self,
        stepper: Stepper,
        reward: Reward,
        config: SearchConfig,
        reward_config: RewardConfig,
        *,
        seed: int,
        images: ImageStore | None = None,
    ) -> None:
        self.config = config
        self.seed = seed
        self.simulator = Simulator(stepper, reward, config, reward_config, images)

    async def search(self, example: Example, tree: Tree, journal: Journal) -> Tree:
        """Go on with `tree` (new or resumed) until its budget is spent, and journal each simulation.

        A failure that would come again ends the tree for good. After one of the infrastructure the tree has
        an `error` but no `end`: the next search goes on with it.
        """
        asking_for.set(tree.tree_id)
        tree.error = ""
        try:
            reason = await self._grow(example, tree, journal)
            await _end(tree, journal, reason)
        except VigorlError as error:
            text = f"{error.reason}: {error.message}"
            logger.warning("%s: %s", tree.tree_id, text)
            if error.infrastructure:
                tree.error = text
            else:
                await _end(tree, journal, "error", text)
        return tree

    async def _grow(self, example: Example, tree: Tree, journal: Journal) -> str:
        """Why the tree ended."""
        try:
            async with asyncio.timeout(self.config.deadline_s or None) as limit:
                example = await self._with_images(example)
                if not tree.nodes:
                    stepper = self.simulator.stepper
                    prefix = await stepper.start(example, (self.seed, "search", example.example_id))
                    await uninterrupted(_open(tree, journal, prefix))
                return await _Growth(self.simulator, example, tree, journal).run()
        except TimeoutError:
            if not limit.expired():
                raise
            return "deadline"

    async def _with_images(self, example: Example) -> Example:
        """The example with its images' bytes, loaded only now: a data set's images do not fit into memory."""
        images = self.simulator.images
        if images is None or all(image.data is not None for image in example.images):
            return example
        return replace(example, images=await asyncio.to_thread(lambda: tuple(map(images.load, example.images))))


class _Growth:
    """One tree while it grows: what is in flight, and how it gets into the tree."""

    def __init__(self, simulator: Simulator, example: Example, tree: Tree, journal: Journal) -> None:
        self._simulator = simulator
        self._config = simulator.config
        self._example = example
        self._tree = tree
        self._journal = journal
        self._running: set[asyncio.Task[None]] = set()
        self._reserved: dict[asyncio.Task[None], tuple[Node, int]] = {}
        self._walking: set[int] = set()
        self._commits = asyncio.Lock()

    async def run(self) -> str:
        """Simulate until there is nothing left to begin; returns why. Leaving cancels what is in flight."""
        try:
            while not (reason := self._decided()):
                while len(self._running) < self._config.simulations_in_flight and self._begin():
                    pass
                if not self._running:
                    return self._spent() or "exhausted"
                done, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
                self._release(done)
                for task in done:
                    task.result()
            return reason
        finally:
            await self._cancel()

    def _decided(self) -> str:
        """Why what is in flight need not be waited for."""
        if self._tree.solved:
            return "solved" if self._config.stop_when_solved else ""
        patience = self._config.stop_when_hopeless
        return "hopeless" if 0 < patience <= self._tree.simulations else ""

    def _spent(self) -> str:
        """Why no further simulation may begin."""
        if self._tree.simulations + len(self._running) >= self._config.simulations:
            return "budget"
        return "tokens" if 0 < self._config.max_tree_tokens <= self._tree.cost.tokens else ""

    def _begin(self) -> bool:
        """Put one more simulation in flight, if there is one to begin."""
        if self._spent():
            return False
        if self._config.kind == "paths":
            walked = self._walking | {rollout.number for rollout in self._tree.rollouts}
            number = next(k for k in range(len(walked) + 1) if k not in walked)
            self._walking.add(number)
            self._running.add(asyncio.create_task(self._walk(number)))
            return True
        leaf = select(self._tree.root, self._config.selection, self._config.exploration)
        if leaf is None:
            return False
        visits = 1 if leaf.terminal else self._config.children * self._config.rollouts_per_child
        leaf.reserve(visits)
        leaf.expanding = not leaf.terminal
        task = asyncio.create_task(self._simulate(leaf))
        self._reserved[task] = (leaf, visits)
        self._running.add(task)
        return True

    def _release(self, ended: Iterable[asyncio.Task[None]]) -> None:
        """Take back the virtual visits of simulations that ended, in whichever way.

        Not in the task (one that is cancelled before it began runs no `finally`) and not in a callback of it (which
        may come after whoever waits for the task has gone on).
        """
        for task in ended:
            if reserved := self._reserved.pop(task, None):
                leaf, visits = reserved
                leaf.reserve(-visits)
                leaf.expanding = False

    async def _simulate(self, leaf: Node) -> None:
        found = Found() if leaf.terminal else await self._simulator.expand(self._example, leaf)
        await uninterrupted(self._commit(leaf, found))

    async def _walk(self, number: int) -> None:
        found = await self._simulator.walk(self._example, self._tree.root, number)
        await uninterrupted(self._commit(self._tree.root, found))

    async def _commit(self, leaf: Node, found: Found) -> None:
        """To the journal, then to the tree; one at a time, because each record names the one before it."""
        tree = self._tree
        async with self._commits:
            rollouts = found.rollouts(tree, leaf)
            record = simulation_record(tree, leaf, found.children, rollouts, found.error, found.cost)
            await _write(tree, record, self._journal)
            tree.simulate(leaf, found.children, rollouts, found.error, found.cost)

    async def _cancel(self) -> None:
        for task in self._running:
            task.cancel()
        results = await asyncio.gather(*self._running, return_exceptions=True)
        self._release(self._running)
        for result in results:
            # What a cancelled simulation still says is of no interest; that it could not be journalled is.
            if isinstance(result, StorageError):
                raise result


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Await work that a cancellation may not cut in two; the cancellation comes through once it is done."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        raise


async def _open(tree: Tree, journal: Journal, prefix: Prefix) -> None:
    await _write(tree, root_record(tree, prefix), journal)
    tree.open(prefix)


async def _end(tree: Tree, journal: Journal, reason: str, error: str = "") -> None:
    await _write(tree, end_record(tree, reason, error), journal)
    tree.end, tree.error = reason, error


async def _write(tree: Tree, entry: Entry, journal: Journal) -> None:
    await journal(entry)
    tree.head = entry.id
