"""The rollout producer of a GRPO run: which prompts, when, with which weights; one process, without torch.

It owns the order of prompts and the groups. For each step it waits until the policy holds weights that are
new enough, rolls out whole groups through the same `step` as everything else, replaces groups that teach
nothing by further prompts, and commits the step. What is committed is never rolled out again: a producer
that was killed continues in the same order, with the same seeds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.run import solve
from vigorl_lib.rollout.step import StepError, Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.segments import SegmentWriter
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import Group, StepPlan, commit_step, group_record, read_groups, read_plan
from vigorl_lib.training.order import draws
from vigorl_lib.training.weights import current_weights

log = logging.getLogger(__name__)

POLL_S = 0.02
MAX_POLL_S = 1.0
ATTEMPTS = 3
"""How often a rollout is tried while services fail."""


class Producer:
    """Rolls out the groups of all steps of one run. `examples` may lack their images' bytes."""

    def __init__(
        self,
        config: GrpoConfig,
        task: TaskConfig,
        reward: RewardConfig,
        wired: Wired,
        *,
        examples: Sequence[Example],
        layout: RunLayout,
        images: ImageStore,
        seed: int,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self._config, self._task, self._reward = config, task, reward
        self._wired = wired
        self._examples, self._layout, self._images, self._seed = examples, layout, images, seed
        self._on_step = on_step
        self._order = draws([len(examples)], [1.0], seed)
        self._drawn: list[int] = []
        self._slots = asyncio.Semaphore(config.max_in_flight)

    async def run(self) -> None:
        """Produce every step that is not committed yet. Raises PolicyError, StorageError when it cannot go on."""
        position = 0
        for step in range(self._config.steps):
            plan = await asyncio.to_thread(read_plan, self._layout, step)
            if plan is None:
                plan = await self._produce(step, position)
            position = plan.next_position
            if self._on_step is not None:
                self._on_step(step + 1, self._config.steps)

    async def _produce(self, step: int, position: int) -> StepPlan:
        version = max(0, step - self._config.max_policy_lag)
        await self._policy_at(version)
        begin = time.monotonic()
        stepper = Stepper(
            self._wired.policy,
            self._wired.environment,
            self._task,
            own=True,
            min_policy_version=version,
            load_image=self._images.get,
        )
        groups = await self._groups(stepper, step, position)
        chosen = [p for p, group in sorted(groups.items()) if self._teaches(group)][: self._config.prompts]
        if all(group.failed for group in groups.values()):
            raise PolicyError(
                f"step {step}: every group of rollouts failed, the last with: {_last_error(groups)}",
                reason="ROLLOUTS_FAILED",
                step=step,
            )
        plan = StepPlan(step, chosen, position + len(groups), version, time.monotonic() - begin)
        await asyncio.to_thread(commit_step, self._layout, plan)
        log.info("step %d: %d groups, %d chosen, %.1f s", step, len(groups), len(chosen), plan.seconds)
        return plan

    async def _groups(self, stepper: Stepper, step: int, first: int) -> dict[int, Group]:
        """Groups of the fewest positions from `first` on that give enough to train on, or of all that are allowed.

        One more prompt is begun for each group that turns out to teach nothing, at once and in order, so that
        the prompts of a step follow from the outcomes alone and not from who finishes first.
        """
        config = self._config
        limit = config.prompts + int(config.max_refill * config.prompts)
        recorded = await asyncio.to_thread(read_groups, self._layout, step)
        groups: dict[int, Group] = {}
        running: set[asyncio.Task[Group]] = set()
        begun = 0
        with SegmentWriter(self._layout.storage, self._layout.trajectories_of(step)) as writer:
            try:
                while True:
                    dull = sum(not self._teaches(group) for group in groups.values())
                    while begun < limit and begun - dull < config.prompts:
                        position, begun = first + begun, begun + 1
                        if position in recorded:
                            groups[position] = recorded[position]
                            dull += not self._teaches(recorded[position])
                        else:
                            running.add(asyncio.create_task(self._group(stepper, position)))
                    if not running:
                        return groups
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        group = task.result()
                        groups[group.position] = group
                        await asyncio.to_thread(self._record, writer, group)
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    async def _group(self, stepper: Stepper, position: int) -> Group:
        example = self._example(position)
        images = await asyncio.to_thread(lambda: tuple(map(self._images.load, example.images)))
        example = replace(example, images=images)
        rollouts = await asyncio.gather(
            *(self._rollout(stepper, example, position, index) for index in range(self._config.group_size))
        )
        ended = [trajectory for trajectory in rollouts if trajectory is not None]
        scores = await self._wired.reward.score([(example, t) for t in ended], config=self._reward)
        scored = []
        for trajectory, score in zip(ended, scores, strict=True):
            if isinstance(score, Exception):
                log.warning("%s has no reward: %s", trajectory.trajectory_id, score)
                scored.append(trajectory)
            else:
                outcome = score.outcome.value
                scored.append(replace(trajectory, reward=score.total, reward_parts=score.parts, outcome=outcome))
        return Group(position, example.example_id, tuple(scored))

    async def _rollout(self, stepper: Stepper, example: Example, position: int, index: int) -> Trajectory | None:
        """One rollout, None if its episode could not even be opened.

        One that failed at a service is done again once the policy is there; its seeds are the same.
        """
        name = f"{self._layout.run_id}/{example.example_id}/{position}-{index}"
        trajectory: Trajectory | None = None
        async with self._slots:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await self._policy_at(stepper.min_policy_version)
                try:
                    trajectory = await solve(
                        stepper, example, trajectory_id=name, seed_path=(self._seed, position, index)
                    )
                except StepError as error:
                    log.warning("%s could not begin: %s", name, error)
                    continue
                if not trajectory.stop.is_error:
                    break
                log.warning("%s failed: %s", name, trajectory.error)
        return trajectory

    async def _policy_at(self, version: int) -> None:
        """Return once the policy holds at least `version`, and tell it when storage has a newer one than it holds."""
        deadline = time.monotonic() + self._config.wait_timeout_s
        pause, problem = POLL_S, "the learner has not published it"
        policy = self._wired.policy
        while time.monotonic() < deadline:
            try:
                held = (await policy.info()).version
                wanted = await asyncio.to_thread(current_weights, self._layout)
                if wanted is not None and wanted.version > held:
                    run_id = self._layout.run_id
                    held = (await policy.update_weights(version=wanted.version, uri=wanted.uri, run_id=run_id)).version
                if held >= version:
                    return
            except VigorlError as error:
                if not error.infrastructure:
                    raise
                problem = f"{error.reason}: {error.message}"
                log.warning("waiting for version %d: %s", version, problem)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, MAX_POLL_S)
        raise PolicyError(
            f"waited {self._config.wait_timeout_s:.0f} s for version {version} of the weights: {problem}",
            reason="POLICY_TOO_OLD",
            version=version,
        )

    def _teaches(self, group: Group) -> bool:
        return not group.failed and not (self._config.drop_zero_variance and group.zero_variance)

    def _example(self, position: int) -> Example:
        while len(self._drawn) <= position:
            self._drawn.append(next(self._order))
        return self._examples[self._drawn[position]]

    def _record(self, writer: SegmentWriter, group: Group) -> None:
        writer.append(group_record(group, self._images))


def _last_error(groups: dict[int, Group]) -> str:
    errors = [t.error for group in groups.values() for t in group.trajectories if t.error]
    return errors[-1] if errors else "an episode that could not begin"
