"""Settings of SFT and GRPO; plain values, nothing here imports torch.

`EngineConfig` is what both stages share: how the model is held, batched and stepped. What is rolled out
and how it is rewarded (task, reward, addresses) stands once in the recipe, not here.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vigorl_lib.config import Section
from vigorl_lib.training.advantages import AdvantageKind, LossAverage


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


class LoraConfig(Section):
    """Low-rank adapters (peft) that are trained in place of the weights beside which they lie."""

    rank: int = Field(default=0, ge=0)
    """Rank of each adapter; 0 trains the weights themselves."""
    alpha: int = Field(default=32, gt=0)
    """An adapter adds its product times `alpha / rank`."""
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last names of the linear layers that get one, in the vision tower too unless it is frozen."""
    seed: int = 0
    """Of the adapters' first values; nothing else in training is random."""


class EngineConfig(Section):
    """The DeepSpeed engine and its optimiser."""

    zero_stage: Literal[0, 1, 2, 3] = 0
    dtype: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int = Field(default=16, ge=1)
    """Sequences in one forward pass of one rank at most."""
    micro_batch_tokens: int = Field(default=16_384, ge=1)
    """Tokens in one forward pass of one rank at most, a shared prompt counted once; a longer sequence goes alone."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in the processor's memory instead of the accelerator's: nothing, the optimiser with the weights
    that it updates, or these and partitioned parameters (`all`, ZeRO 3)."""
    optimizer: Literal["adamw", "adamw_kahan"] = "adamw"
    """`adamw_kahan` updates bf16 weights without an fp32 copy, with zero_stage 0."""
    learning_rate: float = Field(default=1e-6, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip_norm: float = Field(default=1.0, ge=0.0)
    """Gradients are scaled down to this global L2 norm; 0 is off."""
    max_skipped: int = Field(default=0, ge=0)
    """Steps in a row that may be left out because their gradient is not finite; one more ends the run."""
    schedule: ScheduleConfig = ScheduleConfig()
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share that a running mean of the weights keeps at each step; the final model has the mean. 0 is off."""
    module_lr: dict[str, float] = Field(default_factory=dict)
    """Factor on the learning rate of the modules with this name, for example `patch_embed: 0.1`."""
    freeze: tuple[str, ...] = ()
    """Names of modules that are not trained. `visual` keeps the vision tower outside the engine, whole on each rank."""
    lora: LoraConfig = LoraConfig()
    gradient_checkpointing: bool = False
    threads: int = Field(default=1, ge=1)
    """Threads of one rank on a processor; ignored on an accelerator."""
    view_cache_bytes: int = Field(default=512 << 20, ge=0)
    """Memory for decoded model views, so that an image is decoded once."""
    feature_cache_bytes: int = Field(default=256 << 20, ge=0)
    """Memory for features of a frozen vision tower, so that an image is encoded once."""

    @model_validator(mode="after")
    def _optimiser_fits(self) -> EngineConfig:
        kahan = self.optimizer == "adamw_kahan"
        if kahan and (self.zero_stage or self.dtype != "bf16"):
            raise ValueError("optimizer adamw_kahan is for dtype bf16 with zero_stage 0; adamw serves the others")
        if kahan and self.ema_decay:
            raise ValueError("ema_decay needs weights in fp32, which optimizer adamw_kahan does not have; use adamw")
        if self.dtype == "bf16" and self.zero_stage == 0 and not kahan:
            raise ValueError(
                "dtype bf16 needs zero_stage 1 or above, which keeps the weights in fp32 for the updates, "
                "or optimizer adamw_kahan"
            )
        needed = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < needed:
            raise ValueError(f"offload {self.offload} needs zero_stage {needed} or above, found {self.zero_stage}")
        return self


class CheckpointConfig(Section):
    """When state is saved; a killed run continues from the last committed checkpoint."""

    every: int = Field(default=100, ge=0)
    """Steps between checkpoints; 0 saves none, so that a killed run starts again."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints that are kept, the newest."""
    best_metric: str = ""
    """Metric whose best checkpoint is kept besides, for example `validation_loss`; a checkpoint takes part if its
    weights were measured. Empty keeps none."""
    best_mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest value of `best_metric` is the best."""


class ChainSource(Section):
    """One part of a mixture of demonstration chains."""

    chains: str
    """Key below the root, or URI, of the chains: a file of Parquet, JSONL or sharegpt (`.json`), or a prefix, which
    means every Parquet file under it."""
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
    engine: EngineConfig = EngineConfig(learning_rate=1e-5)
    checkpoint: CheckpointConfig = CheckpointConfig()
    validation: tuple[ChainSource, ...] = ()
    evaluate_every: int = Field(default=0, ge=0)
    """Steps between evaluations of the loss on `validation`; 0 evaluates only at the end, if there are chains."""
    patience: int = Field(default=0, ge=0)
    """Evaluations in a row without a new lowest loss after which training ends; 0 goes through all steps."""
    prefetch: int = Field(default=2, ge=0)
    """Steps whose batches are made ahead, on a thread of their own."""
    log_every: int = Field(default=10, ge=1)
    """Steps between log lines; metrics are written for every step."""

    @model_validator(mode="after")
    def _has_an_end(self) -> SftConfig:
        if self.steps and self.epochs:
            raise ValueError("give `steps` or `epochs`, not both")
        if self.patience and not (self.validation and self.evaluate_every):
            raise ValueError("patience needs `validation` and `evaluate_every`")
        return self


class ValidationConfig(Section):
    """Greedy answers to examples that are not trained on, while a GRPO run goes on; the producer asks for them."""

    every: int = Field(default=0, ge=0)
    """Steps between validations; 0 has none. The last weights are left to the evaluation."""
    split: str = "validation"
    """Split of the recipe's data set."""
    examples: int = Field(default=64, ge=1)
    """The first ones of the split; fewer where it has fewer."""
    modes: tuple[str, ...] = ()
    """Modes to ask in; empty takes those that are trained."""


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
    modes: dict[str, float] = Field(default_factory=dict)
    """Modes of the task that the groups are drawn in, by weight, for example `{multi_turn: 3, single_turn: 1}`, so
    that none is forgotten; empty takes the task's own mode for all."""
    max_policy_lag: int = Field(default=0, ge=0)
    """Versions that the sampler may be behind the learner: 0 is strictly on-policy, 1 overlaps rollouts and updates."""
    max_in_flight: int = Field(default=64, ge=1)
    """Rollouts under way at once."""
    drop_zero_variance: bool = True
    """Groups whose rewards are all equal teach nothing: leave them out and roll out further prompts instead."""
    max_refill: float = Field(default=1.0, ge=0.0)
    """Further groups for those left out, at most, as a share of `prompts`."""
    truncated: Literal["train", "mask", "drop"] = "train"
    """Rollouts that were cut by a token budget: `train` on them, `mask` them, so that their reward counts in the group
    and their tokens are not trained, or `drop` them from the group."""
    overlong_tokens: int = Field(default=0, ge=0)
    """Length of the stretch before `task.max_tokens` over which `overlong_penalty` sets in; 0 has none."""
    overlong_penalty: float = Field(default=1.0, ge=0.0)
    """Subtracted from the reward of a rollout that uses all of its tokens."""
    advantage: AdvantageKind = "std"
    """Reward minus the group's mean, divided by its standard deviation (`std`) or not (`none`), or minus the mean of
    the other rollouts (`leave_one_out`)."""
    loss_average: LossAverage = "token"
    """What the loss is a mean over: all tokens (`token`, DAPO), samples of means over tokens (`sequence`, GRPO), or
    samples of sums over `task.max_tokens` (`constant`, Dr. GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """One ratio a token, or one a sample (GSPO, with `loss_average: sequence` and clip ranges near 3e-4)."""
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
    validation: ValidationConfig = ValidationConfig()
    weight_transfer: Literal["none", "nccl", "gloo"] = "none"
    """Send new weights straight to the policy's replicas, which are set to the same (`vllm.weight_transfer`), before
    they are published: `nccl` between GPUs, `gloo` between processors."""
    wait_timeout_s: float = Field(default=3600.0, gt=0.0)
    """How long the learner waits for the groups of a step, and the producer for a version, before it gives up."""
    log_every: int = Field(default=1, ge=1)

    @field_validator("modes")
    @classmethod
    def _modes_have_weight(cls, modes: dict[str, float]) -> dict[str, float]:
        if any(weight <= 0.0 for weight in modes.values()):
            raise ValueError("every mode needs a weight above 0; leave out those that are not wanted")
        return modes

    @model_validator(mode="after")
    def _updates_divide_the_batch(self) -> GrpoConfig:
        if self.updates > self.prompts:
            raise ValueError(f"{self.updates} updates need at least as many prompts, found {self.prompts}")
        return self
