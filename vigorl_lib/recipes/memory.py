"""How much memory one GPU of the trainer needs: an estimate, with its formula, from a recipe alone.

It is arithmetic over the recipe's `model`, `hardware` and engine settings; it measures nothing and imports no torch.
P are the trained parameters, F the frozen ones of the tower, R those of the reference, N the GPUs, T the tokens of a
micro-batch, L layers of width h, i the width of the feed-forward part, k of keys and values, V the vocabulary, b the
bytes of a number, 2 in bf16 and 4 in fp32:

    weights      bP; / N with ZeRO 3; 0 where they are offloaded
    gradients    bP; / N with ZeRO 2 and 3; 0 where the optimiser is offloaded with ZeRO 2 or 3
    optimiser    12P with ZeRO 1 to 3 (weights and two moments in fp32), / N; without ZeRO the moments alone, 8P, or 6P
                 with adamw_kahan (moments and what rounding lost, in bf16); 4P more with ema_decay, / N like the rest;
                 0 where it is offloaded
    base         b for each weight beside adapters, where P are those of LoRA; / N with ZeRO 3
    tower        bF, whole on each GPU where it is frozen
    reference    bR, whole on each GPU, where `kl_coef` is not 0
    activations  bT(Lh + 12h + 2k + 4i) with gradient checkpointing, bTL(12h + 2k + 4i) without
    logits       10V for each trained token of a micro-batch
    buffers      5 * 10^8 numbers on their way between GPUs; with ZeRO 3 on several GPUs 10^9 gathered weights, too
    reserve      1 GiB for the driver and 10 % of everything for what the allocator cannot use

In the memory of the machine, for each GPU that offloads: the optimiser, and 8P / N with ZeRO 1 and 2 (gradients 4P in
fp32 and 2P as they are summed up, weights on their way 2P) or 6P / N with ZeRO 3, and offloaded weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from vigorl_lib.recipes.schema import HardwareConfig, ModelConfig
from vigorl_lib.training.config import EngineConfig, LoraConfig

GIB = 1 << 30
_LIVE_PARAMETERS = 10**9
_BUCKET = 5 * 10**8


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on one GPU by what they are for, and in the machine's memory for that GPU."""

    parts: dict[str, int]
    host: int

    @property
    def gib(self) -> float:
        return sum(self.parts.values()) / GIB

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size)
        host = f"; {self.host / GIB:.0f} GiB of the machine's memory a GPU" if self.host else ""
        return f"{self.gib:.1f} GiB = {parts}{host}"


def language_parameters(model: ModelConfig) -> int:
    """Parameters of the language model, embedding and output included."""
    keys = model.hidden // model.heads * model.kv_heads
    attention = 2 * model.hidden**2 + model.hidden + 2 * (model.hidden * keys + keys)
    layer = attention + 3 * model.hidden * model.intermediate + 2 * model.hidden
    embeddings = model.vocabulary * model.hidden * (1 if model.tied else 2)
    return embeddings + model.layers * layer + model.hidden


def adapter_parameters(model: ModelConfig, lora: LoraConfig) -> int:
    """Parameters of the adapters in the language model; those in a tower are too few to count."""
    hidden, inner = model.hidden, model.intermediate
    keys = hidden // model.heads * model.kv_heads
    attention = {"q_proj": 2 * hidden, "k_proj": hidden + keys, "v_proj": hidden + keys, "o_proj": 2 * hidden}
    sides = attention | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
    return model.layers * lora.rank * sum(sides.get(module, 0) for module in lora.modules)


def training_state(trained: int, gpus: int, engine: EngineConfig) -> MemoryEstimate:
    """Weights, gradients and optimiser of so many trained parameters, cut over the GPUs as ZeRO does."""
    width, stage = _width(engine), engine.zero_stage
    weights = width * trained // (gpus if stage == 3 else 1)
    gradients = width * trained // (gpus if stage >= 2 else 1)
    each = (12 if stage else 6 if engine.optimizer == "adamw_kahan" else 8) + (4 if engine.ema_decay else 0)
    optimiser, host = each * trained // (gpus if stage else 1), 0
    if engine.offload != "none":
        host, optimiser = optimiser + (6 if stage == 3 else 8) * trained // gpus, 0
        # ZeRO 1 keeps them where they arise until the step.
        gradients = gradients if stage == 1 else 0
    if engine.offload == "all":
        host, weights = host + weights, 0
    return MemoryEstimate({"weights": weights, "gradients": gradients, "optimiser": optimiser}, host)


def estimate(
    model: ModelConfig, hardware: HardwareConfig, engine: EngineConfig, *, trained_tokens: int, reference: bool
) -> MemoryEstimate:
    """`trained_tokens` are those of one micro-batch at most; `reference` is whether a second model is held."""
    language, width, gpus = language_parameters(model), _width(engine), max(hardware.gpus, 1)
    frozen_tower = "visual" in engine.freeze
    inside = language + (0 if frozen_tower else model.vision_parameters)
    trained = adapter_parameters(model, engine.lora) if engine.lora.rank else inside
    state = training_state(trained, gpus, engine)
    gathered = min(inside, _LIVE_PARAMETERS) if engine.zero_stage == 3 and gpus > 1 else 0
    parts = {
        **state.parts,
        "base": width * inside // (gpus if engine.zero_stage == 3 else 1) if engine.lora.rank else 0,
        "tower": width * model.vision_parameters if frozen_tower else 0,
        "reference": width * language if reference else 0,
        "activations": width * engine.micro_batch_tokens * _numbers_per_token(model, engine),
        "logits": 10 * min(trained_tokens, engine.micro_batch_tokens) * model.vocabulary,
        "buffers": width * (_BUCKET + gathered),
    }
    parts["reserve"] = GIB + sum(parts.values()) // 10
    return MemoryEstimate(parts, state.host)


def _numbers_per_token(model: ModelConfig, engine: EngineConfig) -> int:
    """How many numbers are kept of a token for the backward pass."""
    keys = model.hidden // model.heads * model.kv_heads
    layer = 12 * model.hidden + 2 * keys + 4 * model.intermediate
    return model.layers * model.hidden + layer if engine.gradient_checkpointing else model.layers * layer


def _width(engine: EngineConfig) -> int:
    return 2 if engine.dtype == "bf16" else 4
