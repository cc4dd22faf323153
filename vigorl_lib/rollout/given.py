"""Turns that are given, played to an environment, as few-shot examples are. No policy is asked here."""

from __future__ import annotations

from collections.abc import Sequence

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.environment.base import Environment, Outcome
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import DataError


async def play(
    environment: Environment, image: Image, texts: Sequence[str], *, mode: str, config: ZoomConfig, resize: ResizeRule
) -> list[Outcome]:
    """What the environment makes of given turns, whose points are in the model frame.

    Raises DataError (TURN_UNPLAYABLE) for a turn that it cannot act on, or one behind the end.
    """
    state = (await environment.start(image, mode=mode, config=config, resize=resize)).state
    outcomes: list[Outcome] = []
    for number, text in enumerate(texts):
        outcome = await environment.step(state, text, image)
        problem = outcome.detail if outcome.invalid is not None else ""
        if outcome.stop is not None and number + 1 < len(texts):
            problem = f"the conversation ends here ({outcome.stop}), and {len(texts) - number - 1} turns follow"
        if problem:
            raise DataError(f"turn {number}: {problem}; found {text!r}", reason="TURN_UNPLAYABLE", turn=number)
        outcomes.append(outcome)
        state = outcome.state
    return outcomes
