"""The optimisers by name, and what a step costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from vigorl_lib.errors import ConfigError
from vigorl_lib.training.config import EngineConfig
from vigorl_lib.training.optim import KahanAdamW, build_optimizer
from vigorl_lib.training.throughput import Throughput


def descend(dtype: torch.dtype, optimizer: type[KahanAdamW] | type[torch.optim.AdamW], steps: int) -> torch.Tensor:
    """Weights after many small steps along fixed gradients, and decay."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64).to(dtype))
    groups = [{"params": [weight], "weight_decay": 0.1}]
    made = optimizer(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        weight.grad = (torch.randn(64, generator=generator) * 0.1 + 1.0).to(dtype)
        made.step()
    return weight.detach().float()


def test_kahan_in_fp32_is_adamw() -> None:
    ours, theirs = descend(torch.float32, KahanAdamW, 50), descend(torch.float32, torch.optim.AdamW, 50)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_kahan_keeps_updates_that_bf16_alone_would_lose() -> None:
    exact = descend(torch.float32, torch.optim.AdamW, 200)
    start = descend(torch.bfloat16, KahanAdamW, 0)
    kahan, plain = (descend(torch.bfloat16, kind, 200) for kind in (KahanAdamW, torch.optim.AdamW))
    moved = (exact - start).abs().mean()
    assert (kahan - exact).abs().mean() < 0.15 * moved
    assert (plain - exact).abs().mean() > 0.4 * moved


def test_freeze_and_module_lr_go_by_name_and_vectors_do_not_decay() -> None:
    module = nn.ModuleDict({"visual": nn.Linear(2, 2), "merger": nn.Linear(2, 2), "lm": nn.Linear(2, 2)})
    module["visual"].requires_grad_(False)
    config = EngineConfig(weight_decay=0.1, module_lr={"merger": 0.5})
    groups = build_optimizer(module, config).param_groups
    assert sorted((g["lr_factor"], g["weight_decay"], len(g["params"])) for g in groups) == [
        (0.5, 0.0, 1),
        (0.5, 0.1, 1),
        (1.0, 0.0, 1),
        (1.0, 0.1, 1),
    ]


def test_a_model_that_is_frozen_whole_is_refused() -> None:
    module = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ConfigError) as caught:
        build_optimizer(module, EngineConfig(freeze=("visual",)))
    assert caught.value.reason == "NOTHING_TRAINED"


def test_operations_follow_the_usual_count() -> None:
    text: Any = SimpleNamespace(
        hidden_size=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16, num_hidden_layers=3,
        vocab_size=100,
    )  # fmt: skip
    config = SimpleNamespace(get_text_config=lambda: text)
    throughput = Throughput(config, device=torch.device("cpu"), world=1)
    layer = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16
    expected = 6 * (3 * layer * 30 + 3 * 8 * (10**2 + 20**2) + 800 * 5)
    assert throughput.operations([10, 20], 5) == expected
    record = throughput.metrics([10, 20], 5, seconds=2.0)
    assert record["tokens_per_s"] == 15.0
    assert record["memory_gib"] > 0
    assert "mfu" not in record
