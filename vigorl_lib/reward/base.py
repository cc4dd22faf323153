"""The Reward protocol: how good a finished trajectory is.

A reward is a pure function of the example's truth and the trajectory's turns. It returns named parts
whose weighted sum is the total, and a typed outcome, so that a malformed answer is never a wrong
answer in disguise. Local rules are in sibling modules, the gRPC client in `vigorl_lib.reward.client`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.reward.config import RewardConfig


class RewardOutcome(StrEnum):
    CORRECT = "correct"
    WRONG = "wrong"
    MALFORMED = "malformed"
    """There is an answer that cannot be read as the kind that was asked for."""
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Score:
    """`total` is the weighted sum of `parts` (unweighted values by name)."""

    total: float
    parts: dict[str, float]
    outcome: RewardOutcome
    judged_by: str = ""
    """Name and version of the judge, where one was asked."""

    @property
    def correct(self) -> bool:
        return self.outcome is RewardOutcome.CORRECT


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a free answer; `judge` is its name and version."""

    right: bool
    judge: str


Rule = Callable[[Example, Trajectory, RewardConfig], Score]
"""One way to score a trajectory, by its truth and turns alone; a user's own has this signature, too.

Raises RewardError for an item that it cannot score.
"""


class Reward(Protocol):
    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        """One entry per item, in order; an item that could not be scored is its error."""
        ...

    async def close(self) -> None: ...
