"""Log-probabilities of whole groups under weights that do not change meanwhile, without gradient, on every rank.

For the weights that a step starts from, where it makes several updates, and for the reference. A group's pass depends
on that group alone, so it may be made while others are still rolled out, and gives the same numbers then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from vigorl_lib.training.batches import MicroBatch, Sample
from vigorl_lib.training.learner import Learner
from vigorl_lib.training.order import Prompt
from vigorl_lib.training.plan import Rollout
from vigorl_lib.training.ranks import gathered


class LogProbPass:
    """Keeps what `logprobs` gives, by rollout. All ranks make the same calls."""

    def __init__(self, learner: Learner, logprobs: Callable[[MicroBatch], Tensor]) -> None:
        self._learner, self._logprobs = learner, logprobs
        self._done: dict[Rollout, Tensor] = {}

    def __contains__(self, rollout: Rollout) -> bool:
        return rollout in self._done

    def clear(self) -> None:
        """Forget everything: the weights have changed, or the step."""
        self._done.clear()

    @torch.no_grad()
    def run(self, groups: Iterable[Mapping[Rollout, Sample]]) -> None:
        """Make the passes of groups that have had none. Raises ObjectNotFound, DataError."""
        batches = [
            batch for group in groups for batch in self._micro_batches(group) if not all(r in self for r in batch)
        ]
        rank, world = self._learner.engine.rank, self._learner.engine.world
        mine: dict[Rollout, Tensor] = {}
        # With partitioned parameters all ranks go through the model equally often, some of them for nothing.
        for number in range(math.ceil(len(batches) / world)):
            own = number * world + rank
            chosen = batches[own] if own < len(batches) else {}
            samples = list((chosen or batches[0]).values())
            values = self._logprobs(self._learner.collate(samples, range(len(chosen))))
            parts = torch.split(values.cpu(), [sample.trained_tokens for sample in chosen.values()])
            mine |= dict(zip(chosen, parts, strict=True))
        for found in gathered(mine):
            self._done |= found

    def of(self, rollouts: Iterable[Rollout]) -> Tensor:
        """Log-probabilities, [N], of these rollouts' trained tokens, in their order."""
        kept = [self._done[rollout] for rollout in rollouts]
        return torch.cat(kept or [torch.empty(0)]).to(self._learner.engine.device)

    def _micro_batches(self, group: Mapping[Rollout, Sample]) -> list[dict[Rollout, Sample]]:
        rollouts, samples = list(group), list(group.values())
        prompts = [Prompt(sample.prompt_key, sample.prompt_tokens) for sample in samples]
        (batches,) = self._learner.assign([len(sample) for sample in samples], prompts, world=1)
        return [{rollouts[index]: samples[index] for index in indexes} for indexes in batches]
