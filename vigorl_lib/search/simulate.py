"""What one simulation does: expand a node and roll its children out, or walk one path from the question.

A simulation asks the policy, the environment and the reward, and returns what it found. It neither chooses its
node nor touches the tree, so several may run at once; `vigorl_lib.search.mcts` commits them one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
from vigorl_lib.search.tree import NO_COST, Cost, Node, Rollout, Tree, cost_of, finished
from vigorl_lib.storage.images import ImageStore


@dataclass(slots=True)
class Ran:
    """A rollout from child number `child` of this simulation, or from its node itself where that is None."""

    child: int | None
    number: int
    trajectory: Trajectory
    value: float = 0.0
    score: Score | None = None

    @property
    def failed(self) -> bool:
        return bool(self.trajectory.error) or self.trajectory.stop.is_error


@dataclass(frozen=True, slots=True)
class Found:
    """What a simulation found at its node; `error` says why the node could not be expanded."""

    children: Sequence[Prefix] = ()
    ran: Sequence[Ran] = ()
    error: str = ""
    cost: Cost = NO_COST

    def rollouts(self, tree: Tree, leaf: Node) -> list[Rollout]:
        """With the names that they have in the tree as it is at this moment."""
        rollouts = []
        for one in self.ran:
            node = leaf.index if one.child is None else len(tree.nodes) + one.child
            name = f"{tree.tree_id}/{node}.{one.number}"
            rollouts.append(Rollout(node, finished(one.trajectory, name, one.score), one.value))
        return rollouts


class Simulator:
    """Runs simulations of one configuration. Crops go into `images`, so that whoever reads the journal finds them."""

    def __init__(
        self,
        stepper: Stepper,
        reward: Reward,
        config: SearchConfig,
        reward_config: RewardConfig,
        images: ImageStore | None = None,
    ) -> None:
        self.stepper = stepper
        self.reward = reward
        self.config = config
        self.reward_config = reward_config
        self.images = images

    async def expand(self, example: Example, leaf: Node) -> Found:
        """New children of a node and a score of all that came of them.

        Raises StepError where the policy or the environment is away, or refuses the question itself.
        """
        if leaf.prefix.depth >= self.config.max_depth:
            return Found()
        try:
            successors = await self._continuations(leaf, leaf.prefix, self.config.children)
        except StepError as failure:
            if failure.infrastructure or leaf.parent is None:
                raise
            return Found(error=f"{failure.reason}: {failure.message}")
        children = distinct(leaf.prefix, successors, self.config.dedup_radius_px)
        jobs = []
        runs = []
        for offset, child in enumerate(children):
            if child.stop is None:
                numbers = range(self.config.rollouts_per_child)
                jobs += [self._roll_out(example, child, offset, number) for number in numbers]
            else:
                runs.append(Ran(offset, 0, await self._to_end(example, child, 0)))
        cost = sum((cost_of(child.new_segments) for child in successors), NO_COST)
        for ran, spent in await asyncio.gather(*jobs):
            runs.append(ran)
            cost += spent
        runs.sort(key=lambda ran: (ran.child, ran.number))
        return Found(children, await self._scored(example, runs), cost=cost)

    async def walk(self, example: Example, root: Node, number: int) -> Found:
        """One path from the question to its end. Raises StepError as `expand` does, for the first turn."""
        begin = replace(root.prefix, seed_path=(*root.prefix.seed_path, "path", number))
        (first,) = await self._continuations(root, begin, 1)
        trajectory = await self._to_end(example, first, self.config.max_depth - 1)
        (ran,) = await self._scored(example, [Ran(None, number, trajectory)])
        if len(trajectory.turns) < self.config.min_path_turns:
            ran.value = 0.0
        return Found(ran=(ran,), cost=cost_of(trajectory.segments))

    async def _continuations(self, leaf: Node, prefix: Prefix, n: int) -> list[Prefix]:
        """`prefix` is the leaf's own, under whichever name its random choices have."""
        successors = await self.stepper.step(prefix, n, last=prefix.depth + 1 >= self.config.max_depth)
        if any(child.stop is StopReason.CANCELLED for child in successors):
            raise PolicyError("the policy broke off an expansion", reason="GENERATION_ABORTED", infrastructure=True)
        # The successors' parent is the leaf with its segments rendered: nobody renders it again.
        rendered = successors[0].parent
        if rendered is not None and rendered is not prefix:
            leaf.prefix = replace(rendered, seed_path=leaf.prefix.seed_path)
        return successors

    async def _roll_out(self, example: Example, child: Prefix, offset: int, number: int) -> tuple[Ran, Cost]:
        steps = min(self.config.rollout_max_steps, self.config.max_depth - child.depth)
        begin = replace(child, seed_path=(*child.seed_path, "rollout", number))
        trajectory = await self._to_end(example, begin, steps)
        cost = cost_of(trajectory.segments[len(child.segments) :])
        return Ran(offset, number, trajectory), cost

    async def _to_end(self, example: Example, prefix: Prefix, steps: int) -> Trajectory:
        """The id is given at the commit, when the node has its number."""
        if prefix.stop is not None:
            return await to_trajectory(
                self.stepper, prefix, prefix.stop, trajectory_id="", example_id=example.example_id
            )
        return await run_to_end(self.stepper, prefix, trajectory_id="", example_id=example.example_id, max_steps=steps)

    async def _scored(self, example: Example, runs: list[Ran]) -> list[Ran]:
        """Rollouts with their values, all asked at once; one that broke off or cannot be scored keeps its error."""
        whole = [ran for ran in runs if not ran.failed]
        if whole:
            items = [(example, ran.trajectory) for ran in whole]
            for ran, score in zip(whole, await self.reward.score(items, config=self.reward_config), strict=True):
                if isinstance(score, Score):
                    ran.score, ran.value = score, float(score.correct)
                elif isinstance(score, VigorlError) and not score.infrastructure:
                    ran.trajectory = replace(ran.trajectory, error=f"{score.reason}: {score.message}")
                else:
                    raise score
        if self.images is not None:
            await asyncio.to_thread(_store_images, runs, self.images)
        return runs


def _store_images(runs: Sequence[Ran], images: ImageStore) -> None:
    for ran in runs:
        store_images(ran.trajectory, images)


def distinct(prefix: Prefix, successors: Sequence[Prefix], radius_px: float) -> list[Prefix]:
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
