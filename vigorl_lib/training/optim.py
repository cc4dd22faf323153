"""The optimiser: which parameters it updates, how fast, and AdamW in two kinds, by name.

`adamw` keeps its state in the precision of what it updates, which DeepSpeed's ZeRO makes fp32. `adamw_kahan` updates
bf16 weights without an fp32 copy of them: what rounding takes from a weight is kept beside it and added to the next
update, so that small updates are not lost. A running mean of the weights can be kept beside them (`keep_average`).
Sharding and clipping are the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vigorl_lib.errors import ConfigError
from vigorl_lib.training.config import EngineConfig, ScheduleConfig
from vigorl_lib.training.module import is_named


def build_optimizer(module: nn.Module, config: EngineConfig) -> torch.optim.Optimizer:
    """Raises ConfigError (NOTHING_TRAINED)."""
    groups = _parameter_groups(module, config)
    if config.optimizer == "adamw_kahan":
        return KahanAdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


def schedule_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Factor on the learning rate at step `step` (from 0) of `total_steps`."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    start = max(schedule.warmup_steps, round(schedule.hold * total_steps))
    if schedule.decay == "constant" or step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1, total_steps - start))
    shape = 1.0 - progress if schedule.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return schedule.final_factor + (1.0 - schedule.final_factor) * shape


AVERAGE = "average"
"""Name in the optimiser's state of the running mean of a weight."""


def keep_average(optimizer: torch.optim.Optimizer, decay: float) -> None:
    """Keep a running mean of every weight beside its moments, from its value after the first step on.

    It is sharded, offloaded and saved as they are.
    """

    @torch.no_grad()
    def update(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # What has never had a gradient has no state, and must not be given one.
                if state := optimizer.state.get(parameter):
                    state.setdefault(AVERAGE, parameter.detach().clone()).lerp_(parameter.detach(), 1.0 - decay)

    optimizer.register_step_post_hook(update)


class KahanAdamW(torch.optim.Optimizer):
    """AdamW whose moments and weights have the parameters' own precision, with Kahan summation of the updates."""

    def __init__(self, params: Iterable[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            for name in ("exp_avg", "exp_avg_sq", "lost"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        (beta1, beta2), rate = group["betas"], group["lr"]
        # Averages are moved in fp32: bf16 cannot hold a change of one part in a thousand.
        average = state["exp_avg"].float().lerp(gradient.float(), 1 - beta1)
        square = state["exp_avg_sq"].float().lerp(gradient.float().square(), 1 - beta2)
        state["exp_avg"].copy_(average)
        state["exp_avg_sq"].copy_(square)
        average /= 1 - beta1 ** state["step"]
        square /= 1 - beta2 ** state["step"]
        weight = parameter.float()
        wanted = weight * (1 - rate * group["weight_decay"]) - rate * average / (square.sqrt() + group["eps"])
        wanted += state["lost"].float()
        parameter.copy_(wanted)
        state["lost"].copy_(wanted - parameter.float())


def _parameter_groups(module: nn.Module, config: EngineConfig) -> list[dict[str, Any]]:
    """Trained parameters by learning-rate factor and decay; vectors (norms, biases) do not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            factors = [factor for part, factor in config.module_lr.items() if is_named(name, part)]
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((math.prod(factors), decay), []).append(parameter)
    if not groups:
        raise ConfigError(f"freeze: {list(config.freeze)} leaves nothing to train", reason="NOTHING_TRAINED")
    return [
        {"params": parameters, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
