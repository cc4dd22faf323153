"""Validation while GRPO goes on: greedy answers to examples that are not trained on, with the weights of a step.

The records of each validation lie under `validation/<step>/<mode>` of the run, as an evaluation writes them; what is
found travels in the step's marker to the metrics. It runs beside the step's rollouts. Without torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from vigorl_lib.domain.example import Example
from vigorl_lib.errors import ConfigError, VigorlError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import evaluate
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.step import LoadImage, Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage import commit
from vigorl_lib.storage.layout import RunLayout

log = logging.getLogger(__name__)


class Validation:
    """Validates one run; `tasks` are one a mode."""

    def __init__(
        self,
        tasks: Sequence[TaskConfig],
        reward: RewardConfig,
        *,
        examples: Sequence[Example],
        layout: RunLayout,
        max_in_flight: int,
        seed: int,
    ) -> None:
        self._tasks = [task.model_copy(update={"temperature": 0.0}) for task in tasks]
        self._reward, self._examples, self._layout = reward, examples, layout
        self._max_in_flight, self._seed = max_in_flight, seed

    async def run(self, step: int, wired: Wired, load_image: LoadImage) -> dict[str, float]:
        """`validation_correct_<mode>` and `validation_reward_<mode>`, with weights of version `step` or as near as lag
        allows. A mode in which services failed is a warning and missing.
        """
        found: dict[str, float] = {}
        for task in self._tasks:
            stepper = Stepper(wired.policy, wired.environment, task, load_image=load_image)
            prefix = f"{self._layout.root}/validation/{step:06d}/{task.mode}"
            try:
                records = await self._evaluate(stepper, wired, prefix)
            except VigorlError as error:
                if not error.infrastructure and error.reason != "EVALUATION_INCOMPLETE":
                    raise
                log.warning("step %d was not validated in %s: %s", step, task.mode, error.message)
                continue
            found[f"validation_correct_{task.mode}"] = sum(record.correct for record in records) / len(records)
            found[f"validation_reward_{task.mode}"] = sum(record.reward for record in records) / len(records)
        return found

    async def _evaluate(self, stepper: Stepper, wired: Wired, prefix: str) -> list[SampleRecord]:
        async def once() -> list[SampleRecord]:
            return await evaluate(
                self._examples,
                stepper,
                wired.reward,
                self._reward,
                storage=self._layout.storage,
                prefix=prefix,
                seed=self._seed,
                max_in_flight=self._max_in_flight,
                on_sample=lambda _: None,
            )

        try:
            return await once()
        except ConfigError as error:
            if error.reason != "EVALUATION_DIFFERS":
                raise
            # Of a producer that was killed while it validated; since then the weights went on.
            await asyncio.to_thread(commit.discard, self._layout.storage, prefix)
            return await once()
