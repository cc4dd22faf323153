"""A language model that counts behaviours in the text of a trajectory's thoughts.

The judge sees question and thoughts, never the image, the answer or the truth: it counts what was done, not whether it
helped. A count that could not be had is an error and never 0.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from hashlib import sha256
from typing import Any

from vigorl_lib.domain.trajectory import Message, Origin, Role, Segment, Trajectory
from vigorl_lib.errors import RewardError, VigorlError
from vigorl_lib.evaluation.behaviours import Behaviour, reasoning_of
from vigorl_lib.policy.base import Policy
from vigorl_lib.prompts import load_prompt
from vigorl_lib.reward.asking import ask_until_read, judge_name, open_judge_policy
from vigorl_lib.reward.config import JudgeConfig
from vigorl_lib.rollout.run import rollout_many
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.segments import SegmentWriter, read_segments

_COUNT = re.compile(r"<count>\s*([0-9]{1,3})\s*</count>")


class BehaviourJudge:
    """Owns its policy."""

    def __init__(self, policy: Policy, config: JudgeConfig) -> None:
        self._policy = policy
        self._config = config
        self._prompts = {behaviour: load_prompt("judge", behaviour.value) for behaviour in Behaviour}
        self._room = asyncio.Semaphore(config.in_flight)

    @classmethod
    def open(cls, config: JudgeConfig) -> BehaviourJudge:
        return cls(open_judge_policy(config), config)

    @property
    def in_flight(self) -> int:
        """Trajectories that are worth counting at a time."""
        return self._config.in_flight

    async def identity(self) -> str:
        """Who counts, and by which prompts; counts of one identity may stand in one table."""
        prompts = "".join(prompt.sha256 for prompt in self._prompts.values())
        return f"{judge_name(await self._policy.info())}#{sha256(prompts.encode()).hexdigest()[:12]}"

    async def count(self, question: str, trajectory: Trajectory) -> Mapping[Behaviour, int]:
        """One question of the judge for each behaviour.

        Raises RewardError (JUDGE_TIMEOUT, JUDGE_UNREADABLE), and what the policy raises.
        """
        counts = await asyncio.gather(*(self._count(behaviour, question, trajectory) for behaviour in Behaviour))
        return dict(zip(Behaviour, counts, strict=True))

    async def close(self) -> None:
        await self._policy.close()

    async def _count(self, behaviour: Behaviour, question: str, trajectory: Trajectory) -> int:
        text = f"Question: {question}\n\nReasoning:\n{reasoning_of(trajectory)}"
        messages = (Message(Role.SYSTEM, (self._prompts[behaviour].text,)), Message(Role.USER, (text,)))
        subject = f"{behaviour.value} of {trajectory.trajectory_id}"
        try:
            async with self._room, asyncio.timeout(self._config.timeout_s):
                prompt = [Segment(Origin.PROMPT, messages)]
                return await ask_until_read(
                    self._policy, prompt, _read, self._config, subject=subject, wanted="<count> N </count>"
                )
        except TimeoutError as error:
            raise RewardError(
                f"{subject}: the judge gave no count within {self._config.timeout_s:g} s",
                reason="JUDGE_TIMEOUT",
                infrastructure=True,
            ) from error


async def count_all(
    asked: Sequence[tuple[str, Trajectory]],
    judge: BehaviourJudge,
    *,
    storage: Storage,
    prefix: str,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Mapping[Behaviour, int]]:
    """Counts of each (question, trajectory), in order; called again, it asks only for what is not recorded.

    `on_progress` gets how many are done, of how many. Raises RewardError (BEHAVIOURS_INCOMPLETE) where some could not
    be counted; those that could are recorded under `prefix`.
    """
    identity = await judge.identity()
    known = (await asyncio.to_thread(read_counts, storage, prefix)).get(identity, {})
    missing = [item for item in asked if item[1].trajectory_id not in known]
    left, failed = len(missing), list[str]()

    async def count(question: str, trajectory: Trajectory) -> tuple[str, Mapping[Behaviour, int] | VigorlError]:
        try:
            return trajectory.trajectory_id, await judge.count(question, trajectory)
        except VigorlError as error:
            return trajectory.trajectory_id, error

    writer = await asyncio.to_thread(SegmentWriter, storage, prefix)
    try:
        jobs = (partial(count, *item) for item in missing)
        async with aclosing(rollout_many(jobs, max_in_flight=judge.in_flight)) as results:
            async for name, found in results:
                if isinstance(found, VigorlError):
                    failed.append(f"{found.reason}: {found.message}")
                else:
                    known[name] = found
                    counts = {behaviour.value: number for behaviour, number in found.items()}
                    entry = {"trajectory": name, "judge": identity, "counts": counts}
                    await asyncio.to_thread(writer.append, entry)
                left -= 1
                on_progress(len(asked) - left, len(asked))
    finally:
        await asyncio.to_thread(writer.close)
    if failed:
        raise RewardError(
            f"{len(failed)} of {len(asked)} trajectories could not be counted, first {failed[0]}; run the same command "
            "again to ask for these only",
            reason="BEHAVIOURS_INCOMPLETE",
            failed=len(failed),
        )
    return [known[trajectory.trajectory_id] for _, trajectory in asked]


def read_counts(storage: Storage, prefix: str) -> dict[str, dict[str, Mapping[Behaviour, int]]]:
    """What judges counted under a prefix, by the judge's identity and the trajectory's id."""
    found: dict[str, dict[str, Mapping[Behaviour, int]]] = {}
    for entry in read_segments(storage, prefix):
        found.setdefault(entry["judge"], {})[entry["trajectory"]] = _counts(entry)
    return found


def counts_prefix(evaluation: str) -> str:
    """Where the counts of an evaluation's trajectories are: below its records, to be deleted with them."""
    return f"{evaluation}/behaviours"


def _counts(entry: Mapping[str, Any]) -> Mapping[Behaviour, int]:
    return {behaviour: entry["counts"][behaviour.value] for behaviour in Behaviour}


def _read(said: str) -> int | None:
    """The last count: a model may repeat the form before it fills it in."""
    found = _COUNT.findall(said)
    return int(found[-1]) if found else None
