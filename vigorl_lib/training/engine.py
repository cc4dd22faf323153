"""The training engine: one model on DeepSpeed, stepped by micro-batches of any number.

It knows parameters, gradients, ranks and checkpoints; what a loss means and where samples come from is the
loops' business (`sft.py`, `grpo.py`). Ranks come from the environment that torchrun, PyTorchJob and TrainJob
set; without one there is a world of one.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vigorl_lib.errors import ConfigError, InternalError
from vigorl_lib.training.config import EngineConfig, ScheduleConfig
from vigorl_lib.training.module import LogProbModule, is_named

_PREFIX = "model."
"""What `LogProbModule` puts before the names of the model's own parameters."""


@contextmanager
def distributed(threads: int) -> Iterator[torch.device]:
    """Join the process group for as long as the block lasts; gives this rank's device.

    The group must be left in order: a rank that just exits can bring down the others.
    """
    import deepspeed

    # Its shared-memory collective would be compiled on the spot, which takes a compiler and a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
    backend = "nccl" if on_gpu else "gloo"
    if "RANK" not in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed looks for it, whoever made the group.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    try:
        yield device
    finally:
        deepspeed.comm.destroy_process_group()


class Engine:
    """A module under DeepSpeed. All ranks make the same calls in the same order."""

    def __init__(self, module: LogProbModule, config: EngineConfig, *, total_steps: int) -> None:
        import deepspeed

        self.config = config
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self._total_steps = total_steps
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not any(is_named(name, frozen) for frozen in config.freeze))
        if config.gradient_checkpointing:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        module.train()
        optimizer = torch.optim.AdamW(
            _parameter_groups(module, config), lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True
        )
        self._norm = 0.0
        if config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._clip)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_deepspeed_config(config)
        )
        self.device: torch.device = self._engine.device

    @property
    def module(self) -> LogProbModule:
        module: LogProbModule = self._engine.module
        return module

    def logprobs(self, *arguments: Any, **options: Any) -> Tensor:
        """`LogProbModule.forward`."""
        result: Tensor = self._engine(*arguments, **options)
        return result

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's share of a global sum; ranks are summed at the step."""
        self._engine.backward(loss * self.world)

    def step(self, step: int) -> tuple[float, float]:
        """Update with what was accumulated, as step number `step` (from 0); returns learning rate and gradient norm.

        Raises InternalError (TRAINING_DIVERGED) when the norm is not finite; nothing is worth saving then.
        """
        factor = schedule_factor(self.config.schedule, step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["lr_factor"] * factor
        self._engine.step()
        norm = self._norm if self.config.zero_stage == 0 else float(self._engine.get_global_grad_norm() or 0.0)
        if not math.isfinite(norm):
            raise InternalError(
                f"the gradient norm of step {step} is {norm}: lower the learning rate or check the data",
                reason="TRAINING_DIVERGED",
                step=step,
            )
        return self.config.learning_rate * factor, norm

    def sum(self, values: dict[str, float]) -> dict[str, float]:
        """Sums over the ranks, on every rank."""
        if self.world == 1:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return dict(zip(values, tensor.tolist(), strict=True))

    def barrier(self) -> None:
        if self.world > 1:
            torch.distributed.barrier()

    def weights(self) -> dict[str, Tensor]:
        """All parameters of the model on the processor, by the model's own names; empty on other ranks than 0."""
        import deepspeed

        weights: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.config.zero_stage == 3):
                if self.rank == 0:
                    weights[name.removeprefix(_PREFIX)] = parameter.detach().cpu().clone()
        return weights

    def save(self, folder: Path, tag: str) -> None:
        """Write this rank's share of the training state under `folder/tag`."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str) -> None:
        """Take up the state that `save` wrote with the same ZeRO stage and world size."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise InternalError(f"DeepSpeed found no checkpoint {tag} in {folder}", reason="CHECKPOINT_UNREADABLE")

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Without ZeRO DeepSpeed clips too, but does not tell the norm.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.config.clip_norm or math.inf
        self._norm = float(nn.utils.clip_grad_norm_(parameters, limit, foreach=True))


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


def _deepspeed_config(config: EngineConfig) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The number of micro-batches differs from step to step: only `step()` says where a batch ends.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.clip_norm if config.zero_stage else 0.0,
        "bf16": {"enabled": config.dtype == "bf16"},
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "steps_per_print": None,
    }
