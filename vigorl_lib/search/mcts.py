"""Monte Carlo tree search over turns, composed of `step` and `run_to_end`.

One simulation: select a node, expand it by one request for several continuations, drop those that look
where somebody looked before, roll each new child out several times at once, score, propagate. A node
may be a zoom, whose crop its children see. Alone, a tree is deterministic for a seed. Scheduling and
resuming many trees is `vigorl_lib.search.coordinator`'s concern.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from vigorl_lib.data.trajectory_records import store_images
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Point
from vigorl_lib.domain.grammar import Continue, Zoom
from vigorl_lib.domain.trajectory import Prefix, StopReason, Trajectory
from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.reward.base import Reward, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.run import run_to_end, to_trajectory
from vigorl_lib.rollout.step import StepError, Stepper
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import Record, end_record, root_record, simulation_record
from vigorl_lib.search.tree import Node, Rollout, Tree, select, without_tokens
from vigorl_lib.storage.images import ImageStore

Journal = Callable[[Record], Awaitable[None]]
"""Makes a record durable. What is on disk may be ahead of memory, never behind it."""

logger = logging.getLogger(__name__)


class TreeSearch:
    """Searches one example after the other, or many at once; holds no state of any tree.

    Crops go into `images`, so that whoever reads the journal finds them.
    """

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
        self.stepper = stepper
        self.reward = reward
        self.config = config
        self.reward_config = reward_config
        self.seed = seed
        self.images = images

    async def search(self, example: Example, tree: Tree, journal: Journal) -> Tree:
        """Go on with `tree` (new or resumed) until its budget is spent, and journal each simulation.

        A failure that would come again ends the tree for good. After one of the infrastructure the tree has
        an `error` but no `end`: the next search goes on with it.
        """
        tree.error = ""
        try:
            example = await self._with_images(example)
            if not tree.nodes:
                prefix = await self.stepper.start(example, (self.seed, "search", example.example_id))
                await _write(tree, root_record(tree, prefix), journal)
                tree.open(prefix)
            while not (reason := self._finished(tree)):
                await self._simulate(example, tree, journal)
            await self._end(tree, journal, reason)
        except VigorlError as error:
            text = f"{error.reason}: {error.message}"
            logger.warning("%s: %s", tree.tree_id, text)
            if error.infrastructure:
                tree.error = text
            else:
                await self._end(tree, journal, "error", text)
        return tree

    async def _with_images(self, example: Example) -> Example:
        """The example with its images' bytes, loaded only now: a data set's images do not fit into memory."""
        if self.images is None or all(image.data is not None for image in example.images):
            return example
        load = self.images.load
        return replace(example, images=await asyncio.to_thread(lambda: tuple(map(load, example.images))))

    async def _end(self, tree: Tree, journal: Journal, reason: str, error: str = "") -> None:
        await _write(tree, end_record(tree, reason, error), journal)
        tree.end, tree.error = reason, error

    def _finished(self, tree: Tree) -> str:
        if self.config.stop_when_solved and tree.solved:
            return "solved"
        if tree.simulations >= self.config.simulations:
            return "budget"
        return "" if tree.root.selectable else "exhausted"

    async def _simulate(self, example: Example, tree: Tree, journal: Journal) -> None:
        leaf = select(tree.root, self.config.c_ucb)
        children: list[Prefix] = []
        rollouts: list[Rollout] = []
        error = ""
        if not leaf.terminal:
            try:
                children = await self._expand(leaf)
            except StepError as failure:
                if failure.infrastructure or leaf.parent is None:
                    raise
                error = f"{failure.reason}: {failure.message}"
            rollouts = await self._rollouts(example, tree, children)
        await _write(tree, simulation_record(tree, leaf, children, rollouts, error), journal)
        tree.simulate(leaf, children, rollouts, error)

    async def _expand(self, leaf: Node) -> list[Prefix]:
        depth = leaf.prefix.depth + 1
        if depth > self.config.max_depth:
            return []
        successors = await self.stepper.step(leaf.prefix, self.config.children, last=depth == self.config.max_depth)
        if any(child.stop is StopReason.CANCELLED for child in successors):
            raise PolicyError("the policy broke off an expansion", reason="GENERATION_ABORTED", infrastructure=True)
        # The successors' parent is the leaf with its segments rendered: nobody renders it again.
        leaf.prefix = successors[0].parent or leaf.prefix
        return distinct(leaf.prefix, successors, self.config.dedup_radius_px)

    async def _rollouts(self, example: Example, tree: Tree, children: list[Prefix]) -> list[Rollout]:
        """Roll every new child out and score all of it at once; a terminal child is scored as it is."""
        jobs = [
            self._rollout(tree, example, child, len(tree.nodes) + offset, number)
            for offset, child in enumerate(children)
            for number in range(1 if child.stop is not None else self.config.rollouts_per_child)
        ]
        rollouts = await self._score(example, await asyncio.gather(*jobs))
        if self.images is not None:
            for rollout in rollouts:
                await asyncio.to_thread(store_images, rollout.trajectory, self.images)
        return [replace(rollout, trajectory=without_tokens(rollout.trajectory)) for rollout in rollouts]

    async def _rollout(self, tree: Tree, example: Example, child: Prefix, node: int, number: int) -> Rollout:
        name = f"{tree.tree_id}/{node}.{number}"
        if child.stop is not None:
            trajectory = await to_trajectory(
                self.stepper, child, child.stop, trajectory_id=name, example_id=example.example_id
            )
        else:
            trajectory = await run_to_end(
                self.stepper,
                replace(child, seed_path=(*child.seed_path, "rollout", number)),
                trajectory_id=name,
                example_id=example.example_id,
                max_steps=min(self.config.rollout_max_steps, self.config.max_depth - child.depth),
            )
        return Rollout(node, trajectory, 0.0)

    async def _score(self, example: Example, rollouts: list[Rollout]) -> list[Rollout]:
        """Rollouts with their rewards; one that broke off, or cannot be scored, keeps its error instead."""
        whole = [rollout for rollout in rollouts if not rollout.failed]
        if not whole:
            return rollouts
        items = [(example, rollout.trajectory) for rollout in whole]
        for rollout, score in zip(whole, await self.reward.score(items, config=self.reward_config), strict=True):
            if isinstance(score, Score):
                rollout.trajectory = _with_score(rollout.trajectory, score)
                rollout.value = float(score.correct)
            elif isinstance(score, VigorlError) and not score.infrastructure:
                rollout.trajectory = replace(rollout.trajectory, error=f"{score.reason}: {score.message}")
            else:
                raise score
        return rollouts


def distinct(prefix: Prefix, successors: list[Prefix], radius_px: float) -> list[Prefix]:
    """Successors that look at no point nearer than this (model frame) to one of their path or an earlier sibling."""
    seen = [point for earlier in prefix.path() for point in _looked_at(earlier)]
    kept = []
    for child in successors:
        points = _looked_at(child)
        if any(point.distance(other) < radius_px for point in points for other in seen):
            continue
        seen.extend(points)
        kept.append(child)
    return kept


def _looked_at(prefix: Prefix) -> tuple[Point, ...]:
    """Where a turn goes next: the point of a zoom, or those of a thought alone. An answer goes nowhere."""
    if prefix.record is None:
        return ()
    turn = prefix.record.turn
    match turn.action:
        case Zoom(point):
            return (point,)
        case Continue():
            return turn.points
        case _:
            return ()


def _with_score(trajectory: Trajectory, score: Score) -> Trajectory:
    return replace(trajectory, reward=score.total, reward_parts=dict(score.parts), outcome=score.outcome.value)


async def _write(tree: Tree, record: Record, journal: Journal) -> None:
    await journal(record)
    tree.head = record["id"]
