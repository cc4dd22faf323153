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
from vigorl_lib.training.config import EngineConfig
from vigorl_lib.training.module import LogProbModule, is_named
from vigorl_lib.training.optim import AVERAGE, build_optimizer, keep_average, schedule_factor
from vigorl_lib.training.ranks import failing_together

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
        with failing_together():
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
            if any(is_named(name, frozen) for frozen in config.freeze):
                parameter.requires_grad_(False)
        if config.gradient_checkpointing:
            module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        module.train()
        optimizer = build_optimizer(module, config)
        if config.ema_decay:
            keep_average(optimizer, config.ema_decay)
        self.skipped = 0
        """Steps in a row, up to the last one, that were left out because their gradient was not finite."""
        self._norm = 0.0
        if config.zero_stage == 0:
            optimizer.register_step_pre_hook(self._clip)
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=_deepspeed_config(config)
        )
        if config.zero_stage == 0 and self.world == 1:
            # DeepSpeed would copy all gradients into buckets and back, to sum them over one rank.
            self._engine.enable_backward_allreduce = False
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

        A gradient that is not finite updates nothing and has norm 0. Raises InternalError (TRAINING_DIVERGED) after
        more than `max_skipped` such steps in a row; nothing since the last checkpoint is worth saving then.
        """
        factor = schedule_factor(self.config.schedule, step, self._total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["lr_factor"] * factor
        self._engine.step()
        norm = self._step_norm()
        if math.isfinite(norm):
            self.skipped = 0
            return self.config.learning_rate * factor, norm
        self.skipped += 1
        if self.skipped > self.config.max_skipped:
            raise InternalError(
                f"the gradient of step {step} is not finite, {self.skipped} in a row: lower the learning rate or check "
                "the data",
                reason="TRAINING_DIVERGED",
                step=step,
            )
        return self.config.learning_rate * factor, 0.0

    def _step_norm(self) -> float:
        """Gradient norm of the last step, before clipping; not finite if the step was left out."""
        if self.config.zero_stage == 0:
            return self._norm
        # ZeRO 3 keeps the norm of the step before when it leaves one out.
        return math.inf if self._engine.optimizer.overflow else float(self._engine.get_global_grad_norm() or 0.0)

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

    def weights(self, *, averaged: bool = False) -> dict[str, Tensor]:
        """All parameters of the module's model on the processor, by name; empty on other ranks than 0.

        `averaged` gives the running means of those that are trained (`ema_decay`).
        """
        import deepspeed

        weights: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.config.zero_stage == 3):
                if self.rank == 0:
                    weights[name.removeprefix(_PREFIX)] = parameter.detach().cpu().clone()
            # Outside of the block, for partitioned means are gathered in a way of their own, by all ranks.
            mean = self._average(parameter) if averaged and parameter.requires_grad else None
            if mean is not None and self.rank == 0:
                weights[name.removeprefix(_PREFIX)] = mean.to("cpu", parameter.dtype)
        return weights

    def _average(self, parameter: nn.Parameter) -> Tensor | None:
        """The running mean of a parameter, whole; None for one that never had a gradient."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if self.config.zero_stage == 0:
            mean: Tensor | None = self._optimizer.state.get(parameter, {}).get(AVERAGE)
            return mean
        full: Tensor | None = safe_get_full_optimizer_state(parameter, AVERAGE)
        return full

    def save(self, folder: Path, tag: str) -> None:
        """Write this rank's share of the training state under `folder/tag`."""
        self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)

    def load(self, folder: Path, tag: str, *, universal: bool = False) -> None:
        """Take up the state that `save` wrote with the same ZeRO stage and world size.

        A `universal` checkpoint (`vigorl_lib.training.reshard`) may come from another world size. Raises ConfigError
        (RESUME_MISMATCH) where it cannot be taken up, InternalError (CHECKPOINT_UNREADABLE).
        """
        if universal and self.config.ema_decay:
            raise ConfigError(
                "a running mean of the weights (ema_decay) is lost on another number of ranks; resume on as many as "
                "before, or export the checkpoint and start from the model",
                reason="RESUME_MISMATCH",
            )
        self._engine._config.load_universal_checkpoint = universal
        optimizer = getattr(self._optimizer, "optimizer", self._optimizer)
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag)
        if universal:
            # Under ZeRO 3 DeepSpeed gives every group the settings of the first one, and all weights one and the same
            # counter of steps, which each of them would then advance.
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
            for state in optimizer.state.values():
                state["step"] = torch.as_tensor(state["step"]).clone()
        if path is None:
            raise InternalError(f"DeepSpeed found no checkpoint {tag} in {folder}", reason="CHECKPOINT_UNREADABLE")

    def _clip(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Without ZeRO DeepSpeed clips too, but does not tell the norm.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.config.clip_norm or math.inf
        self._norm = float(nn.utils.clip_grad_norm_(parameters, limit, foreach=True))
        if not math.isfinite(self._norm):
            for parameter in parameters:
                parameter.grad = None  # What has no gradient is left as it is, moments included.


def _deepspeed_config(config: EngineConfig) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False}
    if config.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if config.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # The number of micro-batches differs from step to step: only `step()` says where a batch ends.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.clip_norm if config.zero_stage else 0.0,
        # Without ZeRO the optimiser itself takes care of bf16 weights.
        "bf16": {"enabled": config.dtype == "bf16" and config.zero_stage > 0},
        "zero_optimization": zero,
        # PyTorch's own AdamW updates what is offloaded; DeepSpeed's would be compiled on the spot.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
