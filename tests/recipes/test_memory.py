"""The estimate of memory: parameters as the real classes have them, state as DeepSpeed holds it."""

from __future__ import annotations

import gc
import warnings
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vigorl_lib.config import load
from vigorl_lib.recipes.memory import adapter_parameters, estimate, language_parameters, training_state
from vigorl_lib.recipes.schema import RECIPES, HardwareConfig, ModelConfig, Recipe
from vigorl_lib.training.config import EngineConfig, LoraConfig
from vigorl_lib.training.engine import Engine, distributed


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_parameters_are_counted_as_the_real_class_has_them(size: str) -> None:
    facts = load(Recipe, f"spatial-sft+{size}", folder=RECIPES, environment={}).model
    text = {
        "hidden_size": facts.hidden,
        "intermediate_size": facts.intermediate,
        "num_hidden_layers": facts.layers,
        "num_attention_heads": facts.heads,
        "num_key_value_heads": facts.kv_heads,
        "vocab_size": facts.vocabulary,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": facts.hidden}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=facts.tied)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)  # type: ignore[no-untyped-call]
    model.tie_weights()
    tower = sum(parameter.numel() for parameter in model.model.visual.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - tower == language_parameters(facts)
    assert facts.vision_parameters == pytest.approx(tower, rel=1e-3)
    lora = LoraConfig(rank=8)
    layers = model.model.language_model.named_modules()
    adapted = [layer for name, layer in layers if name.rpartition(".")[2] in lora.modules]
    assert sum(lora.rank * sum(layer.weight.shape) for layer in adapted) == adapter_parameters(facts, lora)


class Wide(nn.Module):
    """Half a million parameters and hardly an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(8)))

    def forward(self, inputs: Tensor) -> Tensor:
        return cast(Tensor, self.layers(inputs))


def storages() -> dict[int, int]:
    """Bytes by address of all that tensors hold, but for the buffers of DeepSpeed, whose size is fixed."""
    found: dict[int, int] = {}
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thing in gc.get_objects():
            if isinstance(thing, Tensor) and type(thing) is not torch._subclasses.FakeTensor:
                for tensor in (thing, thing.grad if thing.is_leaf else None):
                    if tensor is not None and tensor.untyped_storage().nbytes() < 10**8:
                        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return found


def named(*, slow: bool = False, **engine: Any) -> Any:
    name = " ".join(map(str, engine.values()))
    return pytest.param(engine, id=name, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(
    "engine",
    [
        named(dtype="fp32", zero_stage=0, slow=True),
        named(dtype="bf16", zero_stage=0, optimizer="adamw_kahan"),
        named(dtype="bf16", zero_stage=1, slow=True),
        named(dtype="bf16", zero_stage=2, slow=True),
        named(dtype="bf16", zero_stage=2, ema_decay=0.9, slow=True),
        named(dtype="bf16", zero_stage=2, offload="optimizer"),
        named(dtype="fp32", zero_stage=2),
        named(dtype="bf16", zero_stage=3),
        named(dtype="bf16", zero_stage=3, offload="optimizer", slow=True),
        named(dtype="bf16", zero_stage=3, offload="all", slow=True),
    ],
)
def test_weights_gradients_and_optimiser_are_as_large_as_deepspeed_holds_them(engine: dict[str, Any]) -> None:
    config = EngineConfig.model_validate(engine)
    kind = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    module = Wide().to(kind)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    before = storages().keys() - {p.untyped_storage().data_ptr() for p in module.parameters()}
    inputs = torch.ones(1, 256, dtype=kind)
    with distributed(1):
        trained = Engine(cast(Any, module), config, total_steps=2)
        for step in range(2):
            trained.backward(trained.logprobs(inputs).sum())
            if step == 0:
                trained.step(step)
        held = sum(size for address, size in storages().items() if address not in before)
    expected = training_state(parameters, 1, config)
    assert held == pytest.approx(sum(expected.parts.values()) + expected.host, rel=0.05)


def test_memory_follows_its_formula() -> None:
    model = ModelConfig(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, vocabulary=1000, tied=True)
    count = language_parameters(model)

    def parts(gpus: int, **engine: object) -> dict[str, int]:
        settings = EngineConfig.model_validate({"dtype": "bf16", "freeze": ["visual"], **engine})
        return estimate(model, HardwareConfig(gpus=gpus), settings, trained_tokens=10, reference=True).parts

    whole = parts(4, zero_stage=1)
    assert (whole["weights"], whole["gradients"], whole["optimiser"]) == (2 * count, 2 * count, 3 * count)
    assert whole["reference"] == 2 * count
    assert whole["logits"] == 10 * 10 * 1000
    assert parts(4, zero_stage=2)["gradients"] == count // 2
    assert parts(4, zero_stage=3)["weights"] == count // 2
    assert parts(1, zero_stage=2, offload="optimizer")["optimiser"] == 0
    assert parts(1, zero_stage=1)["activations"] > parts(1, zero_stage=1, gradient_checkpointing=True)["activations"]
