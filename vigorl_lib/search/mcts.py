"""Monte Carlo tree search over turns, composed of `step` and `run_to_end`.

One simulation: select a node, expand it by one request for several continuations, drop those that look
where somebody looked before, roll each new child out several times at once, score, propagate. A node
may be a zoom, whose crop its children see. Alone, a tree is deterministic for a seed. What journal,
scheduling and resume do is `vigorl_lib.search.coordinator`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vigorl_lib.data.trajectory_records import store_images
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import Zoom
from vigorl_lib.domain.trajectory import Prefix, Trajectory
from vigorl_lib.errors import VigorlError
from vigorl_lib.reward.base import Reward, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.run import run_to_end, to_trajectory
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.tree import (
    Node,
    Rollout,
    Tree,
    end_record,
    root_record,
    select,
    simulation_record,
    without_tokens,
)
from vigorl_lib.storage.images import ImageStore

Journal = Callable[[dict[str, Any]], None]


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

        A failure of policy, environment or reward ends this tree with its reason; it is recorded, once.
        """
        try:
            example = await self._with_images(example)
            if not tree.nodes:
                prefix = await self.stepper.start(example, (self.seed, "search", example.example_id))
                journal(root_record(tree, prefix))
                tree.open(prefix)
            reason = self._finished(tree)
            while not reason:
                await self._simulate(example, tree, journal)
                reason = self._finished(tree)
            self._end(tree, journal, reason)
        except VigorlError as error:
            self._end(tree, journal, "error", f"{error.reason}: {error.message}")
        return tree

    async def _with_images(self, example: Example) -> Example:
        """The example with its images' bytes, loaded only now: a data set's images do not fit into memory."""
        if self.images is None or all(image.data is not None for image in example.images):
            return example
        load = self.images.load
        return replace(example, images=await asyncio.to_thread(lambda: tuple(map(load, example.images))))

    def _end(self, tree: Tree, journal: Journal, reason: str, error: str = "") -> None:
        journal(end_record(tree, reason, error))
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
        if not leaf.terminal:
            successors = await self.stepper.step(leaf.prefix, self.config.children)
            # The successors' parent is the leaf with its segments rendered: nobody renders it again.
            leaf.prefix = successors[0].parent or leaf.prefix
            children = self._distinct(leaf, successors)
            rollouts = await self._rollouts(example, tree, children)
        # Journal first: what is on disk may be ahead of memory, never behind it.
        journal(simulation_record(tree, leaf, children, rollouts))
        tree.simulate(leaf, children, rollouts)

    async def _rollouts(self, example: Example, tree: Tree, children: list[Prefix]) -> list[Rollout]:
        """Roll every new child out and score all of it at once; a terminal child is scored as it is."""
        jobs = [
            self._rollout(tree, example, child, len(tree.nodes) + offset, number)
            for offset, child in enumerate(children)
            for number in range(1 if child.stop is not None else self.config.rollouts_per_child)
        ]
        finished = await asyncio.gather(*jobs)
        scores = await self.reward.score([(example, t) for _, t in finished], config=self.reward_config)
        rollouts = []
        for (node, trajectory), score in zip(finished, scores, strict=True):
            if isinstance(score, Exception):
                raise score
            if self.images is not None:
                store_images(trajectory, self.images)
            rollouts.append(Rollout(node, without_tokens(_with_score(trajectory, score)), float(score.correct)))
        return rollouts

    async def _rollout(
        self, tree: Tree, example: Example, child: Prefix, node: int, number: int
    ) -> tuple[int, Trajectory]:
        name = f"{tree.tree_id}/{node}.{number}"
        if child.stop is not None:
            return node, await to_trajectory(
                self.stepper, child, child.stop, trajectory_id=name, example_id=example.example_id
            )
        start = replace(child, seed_path=(*child.seed_path, "rollout", number))
        steps = min(self.config.rollout_max_steps, self.config.max_depth - child.depth)
        return node, await run_to_end(
            self.stepper, start, trajectory_id=name, example_id=example.example_id, max_steps=max(0, steps)
        )

    def _distinct(self, leaf: Node, successors: list[Prefix]) -> list[Prefix]:
        """Children that do not zoom where their path or an earlier sibling did."""
        if leaf.prefix.depth + 1 > self.config.max_depth:
            return []
        looked = [turn.turn.action.point for turn in leaf.prefix.turns if isinstance(turn.turn.action, Zoom)]
        kept = []
        for child in successors:
            action = child.record.turn.action if child.record else None
            if isinstance(action, Zoom):
                if any(action.point.distance(point) < self.config.dedup_radius_px for point in looked):
                    continue
                looked.append(action.point)
            kept.append(child)
        return kept


def _with_score(trajectory: Trajectory, score: Score) -> Trajectory:
    return replace(trajectory, reward=score.total, reward_parts=dict(score.parts), outcome=score.outcome.value)
