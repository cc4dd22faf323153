"""Rewards in this process: finds the rule that a request names, asks the judge where one is needed.

An item that cannot be scored fails alone, with its reason. Rules are pure functions in sibling modules; code of a
user's own comes from the list that the process was given, never from a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError, VigorlError
from vigorl_lib.reward.base import Rule, Score
from vigorl_lib.reward.config import COMPOSED, REFERENCE, RewardConfig
from vigorl_lib.reward.reference import RULES
from vigorl_lib.reward.rules import reference_evaluation, reference_rule, score_trajectory, undecided

if TYPE_CHECKING:
    from vigorl_lib.reward.judge import Judge

EVALUATION = "evaluation"
"""The reference's evaluation, which judges answers more leniently than its rewards do."""
MAX_ITEMS_AT_ONCE = 32
"""Items scored before the event loop gets its turn."""


class LocalReward:
    """Reward protocol. `rules` are a user's own, by name (see `vigorl_lib.reward.custom`)."""

    def __init__(self, judge: Judge | None = None, rules: Mapping[str, Rule] | None = None) -> None:
        self._judge = judge
        self._own = dict(rules or {})

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        """See `Reward.score`. Raises ConfigError (RULE_UNKNOWN)."""
        if config.rule == COMPOSED:
            return await self._composed(items, config)
        rule = self._own.get(config.rule) or self._reference(config.rule)
        # A user's code takes what time it likes, and the reference's patterns take long for hostile text.
        return await asyncio.to_thread(lambda: [_one(rule, *item, config) for item in items])

    async def close(self) -> None:
        if self._judge is not None:
            await self._judge.close()

    def _reference(self, name: str) -> Rule:
        if name == REFERENCE + EVALUATION:
            return reference_evaluation
        short = name.removeprefix(REFERENCE)
        if short == name or short not in RULES:
            known = ", ".join([COMPOSED, *sorted(self._own), *(REFERENCE + rule for rule in (*RULES, EVALUATION))])
            raise ConfigError(
                f"reward.rule: no rule {name!r}; expected one of {known}", reason="RULE_UNKNOWN", rule=name
            )
        return reference_rule(short)

    async def _composed(
        self, items: Sequence[tuple[Example, Trajectory]], config: RewardConfig
    ) -> list[Score | Exception]:
        scores: list[Score | Exception] = []
        for number, (example, trajectory) in enumerate(items):
            if number and number % MAX_ITEMS_AT_ONCE == 0:
                await asyncio.sleep(0)
            scores.append(_one(score_trajectory, example, trajectory, config))
        if self._judge is not None:
            asked = [number for number, item in enumerate(items) if undecided(*item)]
            judged = await asyncio.gather(*(self._judged(self._judge, *items[number], config) for number in asked))
            for number, score in zip(asked, judged, strict=True):
                scores[number] = score
        return scores

    async def _judged(
        self, judge: Judge, example: Example, trajectory: Trajectory, config: RewardConfig
    ) -> Score | Exception:
        try:
            verdict = await judge.verdict(example, trajectory.answer or "")
            return score_trajectory(example, trajectory, config, verdict)
        except VigorlError as error:
            return error


def _one(rule: Rule, example: Example, trajectory: Trajectory, config: RewardConfig) -> Score | Exception:
    try:
        return rule(example, trajectory, config)
    except VigorlError as error:
        return error
