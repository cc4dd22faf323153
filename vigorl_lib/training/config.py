"""Settings of SFT and GRPO; plain values, nothing here imports torch.

`EngineConfig` is what both stages share: how the model is held, batched and stepped. What is rolled out
and how it is rewarded (task, reward, addresses) stands once in the recipe, not here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from vigorl_lib.config import Section


class ScheduleConfig(Section):
    """Learning rate over the steps of a run, as a factor of `learning_rate`.

    The factor rises linearly over `warmup_steps` (the first step has 1/`warmup_steps`, never 0), stays
    at 1 until `hold` of all steps are done, then falls towards `final_factor`, where it is when all are done.
    """

    decay: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    hold: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of all steps after which the decay begins."""
    final_factor: float = Field(default=0.0, ge=0.0, le=1.0)


class EngineConfig(Section):
    """The DeepSpeed engine and its optimiser (AdamW)."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int = Field(default=16, ge=1)
    """Sequences in one forward pass of one rank at most."""
    learning_rate: float = Field(default=1e-6, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float = Field(default=1.0, ge=0.0)
    """Gradients are scaled down to this global L2 norm; 0 is off."""
    schedule: ScheduleConfig = ScheduleConfig()
    module_lr: dict[str, float] = Field(default_factory=dict)
    """Factor on the learning rate of the modules with this name, for example `patch_embed: 0.1`."""
    freeze: tuple[str, ...] = ()
    """Names of modules that are not trained. `visual` keeps the vision tower outside the engine, whole on each rank."""
    gradient_checkpointing: bool = False
    threads: int = Field(default=1, ge=1)
    """Threads of one rank on a processor; ignored on an accelerator."""
    view_cache_bytes: int = Field(default=512 << 20, ge=0)
    """Memory for decoded model views, so that an image is decoded once."""
    feature_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Memory for features of a frozen vision tower, so that an image is encoded once."""

    @model_validator(mode="after")
    def _bf16_has_master_weights(self) -> EngineConfig:
        if self.dtype == "bf16" and self.zero_stage == 0:
            raise ValueError("dtype bf16 needs zero_stage 1 or above, which keeps the weights in fp32 for the updates")
        return self


class CheckpointConfig(Section):
    """When state is saved; a killed run continues from the last committed checkpoint."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0 saves none, so that a killed run starts again."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that are kept, the newest."""


class ChainSource(Section):
    """One part of a mixture of demonstration chains."""

    chains: str
    """Key below the root, or URI, of the chains (Parquet); a prefix means every file under it."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of the sequences, relative to the other sources."""
    modes: tuple[str, ...] = ()
    """Only chains of these modes; empty takes all."""
    limit: int = Field(default=0, ge=0)
    """Only the first chains; 0 takes all."""


class SftConfig(Section):
    """Supervised fine-tuning on demonstration chains; captions are chains too."""

    init: str = ""
    """Model folder or URI to start from; below the root where it is a key."""
    sources: tuple[ChainSource, ...] = ()
    steps: int = Field(default=0, ge=0)
    """Optimiser steps; give these or `epochs`."""
    epochs: float = Field(default=0.0, ge=0.0)
    """Passes over the mixture, counted in sequences."""
    batch: int = Field(default=32, ge=1)
    """Sequences in one optimiser step, over all ranks."""
    length_window: int = Field(default=1, ge=1)
    """Batches among which sequences are sorted by length; 1 draws batches freely, more saves padding."""
    engine: EngineConfig = EngineConfig(learning_rate=1e-5)
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: tuple[ChainSource, ...] = ()
    evaluate_every: int = Field(default=0, ge=0)
    """Steps between evaluations of the loss on `validation`; 0 evaluates only at the end, if there are chains."""
    log_every: int = Field(default=10, ge=1)
    """Steps between log lines; metrics are written for every step."""

    @model_validator(mode="after")
    def _has_an_end(self) -> SftConfig:
        if self.steps and self.epochs:
            raise ValueError("give `steps` or `epochs`, not both")
        return self


class GrpoConfig(Section):
    """Group-relative policy optimisation; one optimiser step or more on each batch of groups."""

    init: str = ""
    """Model folder or URI to start from, also the reference of the KL term."""
    steps: int = Field(default=100, ge=1)
    """Batches of rollouts; weights of version k are those after k of them."""
    prompts: int = Field(default=8, ge=1)
    """Groups that one step trains on."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts of one prompt."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps on each batch of rollouts."""
    max_policy_lag: Literal[0, 1] = 0
    """Versions that the sampler may be behind the learner: 0 is strictly on-policy, 1 overlaps rollouts and updates."""
    max_in_flight: int = Field(default=64, ge=1)
    """Rollouts under way at once."""
    drop_zero_variance: bool = True
    """Groups whose rewards are all equal teach nothing: leave them out and roll out further prompts instead."""
    max_refill: float = Field(default=1.0, ge=0.0)
    """Further groups for those left out, at most, as a share of `prompts`."""
    advantage: Literal["std", "none"] = "std"
    """Divide by the standard deviation of the group (`std`) or only subtract its mean."""
    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    clip_high: float = Field(default=0.28, gt=0.0)
    clip_dual: float = Field(default=3.0, ge=1.0)
    """Bound on the loss of a negative advantage, as a multiple of it."""
    importance_cap: float = Field(default=2.0, ge=0.0)
    """Bound on the weight trainer/sampler per token, which corrects for their mismatch and for lag; 0 is off."""
    kl_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the k3 estimate of the divergence from the reference; 0 leaves out the reference altogether."""
    engine: EngineConfig = EngineConfig(learning_rate=1e-6, freeze=("visual",))
    checkpoint: CheckpointConfig = CheckpointConfig(every=25)
    weight_transfer: Literal["none", "nccl", "gloo"] = "none"
    """Send new weights straight to the policy's replicas, which are set to the same (`vllm.weight_transfer`), before
    they are published: `nccl` between GPUs, `gloo` between processors."""
    wait_timeout_s: float = Field(default=3600.0, gt=0.0)
    """How long the learner waits for the groups of a step, and the producer for a version, before it gives up."""
    log_every: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _updates_divide_the_batch(self) -> GrpoConfig:
        if self.updates > self.prompts:
            raise ValueError(f"{self.updates} updates need at least as many prompts, found {self.prompts}")
        return self
