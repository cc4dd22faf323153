"""The rollout producer of a GRPO run: which prompts, when, with which weights; one process, without torch.

It owns the order of prompts and the groups. For each step it waits until the policy holds weights that are
new enough, rolls out whole groups through the same `step` as everything else, replaces groups that teach
nothing by further prompts, and commits the step. Where lag is allowed, slots that the last rollouts of a step leave
free begin the prompts behind it. What is committed is never rolled out again: a producer that was killed continues in
the same order, with the same seeds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import PolicyError
from vigorl_lib.reward.base import Score
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
from vigorl_lib.training.plan import compare, overlong_share
from vigorl_lib.training.validation import Validation
from vigorl_lib.training.versions import PolicyVersions

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""How often a rollout is tried while services fail."""
RECORD_S = 10.0
"""Groups are in a bucket after so many seconds, so that the learner can begin on them before the step is complete."""


class Producer:
    """Rolls out the groups of all steps of one run. `examples` and `validation` may lack their images' bytes."""

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
        validation: Sequence[Example] = (),
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self._config, self._task, self._reward = config, task, reward
        self._wired = wired
        self._examples, self._layout, self._images, self._seed = examples, layout, images, seed
        self._on_step = on_step
        self._order = draws([len(examples)], [1.0], seed)
        self._drawn: list[int] = []
        # A mode is a source of one item, so that modes alternate in proportion to their weights.
        self._tasks = _tasks(task, tuple(config.modes))
        self._modes = draws([1] * len(self._tasks), list(config.modes.values()) or [1.0], seed)
        self._drawn_modes: list[int] = []
        self._validation: Validation | None = None
        if config.validation.every and validation:
            tasks = _tasks(task, config.validation.modes) if config.validation.modes else self._tasks
            self._validation = Validation(
                tasks, reward, examples=validation, layout=layout, max_in_flight=config.max_in_flight, seed=seed
            )
        self._slots = asyncio.Semaphore(config.max_in_flight)
        self._versions = PolicyVersions(wired.policy, layout, timeout_s=config.wait_timeout_s)
        # Nothing is begun ahead until a step is under way.
        self._step, self._first = config.steps, 0
        """The step under way and its first position."""
        self._next = 0
        """The first position that is not begun."""
        self._open = 0
        """Rollouts that are begun and have not ended, those without a slot included."""
        self._ahead: dict[int, asyncio.Task[Group]] = {}
        """Groups behind those that the step under way has asked for."""
        self._moved = asyncio.Event()
        """Something happened after which a group may be begun ahead."""

    async def run(self) -> None:
        """Produce every step that is not committed yet. Raises PolicyError, StorageError when it cannot go on."""
        helpers: list[asyncio.Task[None]] = []
        if self._config.max_policy_lag:
            helpers = [
                asyncio.create_task(self._versions.follow(self._moved.set)),
                asyncio.create_task(self._run_ahead()),
            ]
        try:
            position = 0
            for step in range(self._config.steps):
                plan = await asyncio.to_thread(read_plan, self._layout, step)
                if plan is None:
                    plan = await self._produce(step, position)
                position = plan.next_position
                if self._on_step is not None:
                    self._on_step(step + 1, self._config.steps)
        finally:
            await _ended([*helpers, *self._ahead.values()])

    async def _produce(self, step: int, position: int) -> StepPlan:
        version = max(0, step - self._config.max_policy_lag)
        await self._versions.reach(version)
        begin = time.monotonic()
        groups, validated = await self._both(step, position)
        chosen = [p for p, group in sorted(groups.items()) if self._teaches(group)][: self._config.prompts]
        if all(group.failed for group in groups.values()):
            raise PolicyError(
                f"step {step}: every group of rollouts failed, the last with: {_last_error(groups)}",
                reason="ROLLOUTS_FAILED",
                step=step,
            )
        plan = StepPlan(step, chosen, position + len(groups), version, time.monotonic() - begin, validated)
        await asyncio.to_thread(commit_step, self._layout, plan)
        log.info("step %d: %d groups, %d chosen, %.1f s", step, len(groups), len(chosen), plan.seconds)
        return plan

    async def _both(self, step: int, position: int) -> tuple[dict[int, Group], dict[str, float]]:
        """The step's groups, and beside them what a validation that is due finds."""
        if self._validation is None or step % self._config.validation.every:
            return await self._groups(step, position), {}
        validating = asyncio.create_task(self._validation.run(step, self._wired, self._images.get))
        try:
            groups = await self._groups(step, position)
            return groups, await validating
        finally:
            await _ended([validating])

    async def _groups(self, step: int, first: int) -> dict[int, Group]:
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
        self._step, self._first = step, first
        prefix = self._layout.trajectories_of(step)
        with SegmentWriter(self._layout.storage, prefix, max_seconds=RECORD_S) as writer:
            try:
                while True:
                    dull = sum(not self._teaches(group) for group in groups.values())
                    while begun < limit and begun - dull < config.prompts:
                        position, begun = first + begun, begun + 1
                        if position in recorded:
                            groups[position] = recorded[position]
                            dull += not self._teaches(recorded[position])
                        else:
                            ahead = position in self._ahead
                            running.add(self._ahead.pop(position) if ahead else self._begin(position, step))
                        self._next = max(self._next, position + 1)
                    if not running:
                        # Not on the loop, which has rollouts under way, when the block ends: storage may be gone.
                        await asyncio.to_thread(writer.close)
                        return groups
                    self._moved.set()
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        group = task.result()
                        groups[group.position] = group
                        await asyncio.to_thread(self._record, writer, group)
            finally:
                await _ended(running)

    async def _run_ahead(self) -> None:
        """Begin groups behind those that the step under way has asked for, while slots are free and lag permits."""
        config = self._config
        while True:
            await self._moved.wait()
            self._moved.clear()
            while self._open < config.max_in_flight:
                # Steps take `prompts` groups or more, so that a group's own step is this one or an earlier one.
                step = self._step + (self._next - self._first) // config.prompts
                if step >= config.steps or step - config.max_policy_lag > self._versions.held:
                    break
                self._ahead[self._next] = self._begin(self._next, step)
                self._next += 1

    def _begin(self, position: int, step: int) -> asyncio.Task[Group]:
        """Roll out the group of a position, with weights that are new enough for a step."""
        stepper = Stepper(
            self._wired.policy,
            self._wired.environment,
            self._tasks[self._mode(position)],
            own=True,
            min_policy_version=max(0, step - self._config.max_policy_lag),
            load_image=self._images.get,
        )
        self._open += self._config.group_size
        return asyncio.create_task(self._group(stepper, position))

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
                scored.append(self._scored(trajectory, score))
        return Group(position, example.example_id, tuple(scored))

    def _scored(self, trajectory: Trajectory, score: Score) -> Trajectory:
        parts, total = dict(score.parts), score.total
        if self._config.overlong_tokens:
            parts["overlong"] = -overlong_share(trajectory, self._task.max_tokens, self._config.overlong_tokens)
            total += self._config.overlong_penalty * parts["overlong"]
        return replace(trajectory, reward=total, reward_parts=parts, outcome=score.outcome.value)

    async def _rollout(self, stepper: Stepper, example: Example, position: int, index: int) -> Trajectory | None:
        """One rollout, None if its episode could not even be opened.

        One that failed at a service is done again once the policy is there; its seeds are the same.
        """
        name = f"{self._layout.run_id}/{example.example_id}/{position}-{index}"
        trajectory: Trajectory | None = None
        async with self._slots:
            for attempt in range(ATTEMPTS):
                if attempt:
                    await self._versions.reach(stepper.min_policy_version)
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
        self._open -= 1
        self._moved.set()
        return trajectory

    def _teaches(self, group: Group) -> bool:
        return bool(compare(group, self._config))

    def _example(self, position: int) -> Example:
        while len(self._drawn) <= position:
            self._drawn.append(next(self._order))
        return self._examples[self._drawn[position]]

    def _mode(self, position: int) -> int:
        while len(self._drawn_modes) <= position:
            self._drawn_modes.append(next(self._modes))
        return self._drawn_modes[position]

    def _record(self, writer: SegmentWriter, group: Group) -> None:
        writer.append(group_record(group, self._images))


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what has not ended yet, and wait for its end."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _tasks(task: TaskConfig, modes: Sequence[str]) -> list[TaskConfig]:
    """The task in each of the modes, with the mode's own prompt; as it is where none is named."""
    return [task.model_copy(update={"mode": mode, "prompt": ""}) for mode in modes] or [task]


def _last_error(groups: dict[int, Group]) -> str:
    errors = [t.error for group in groups.values() for t in group.trajectories if t.error]
    return errors[-1] if errors else "an episode that could not begin"
