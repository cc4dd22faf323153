"""The GRPO of `docs/grpo_in_one_file.py` learns, is short, and computes what the production loop does."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from vigorl_lib.training import advantages, losses

FILE = Path(__file__).parents[2] / "docs" / "grpo_in_one_file.py"


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grpo_in_one_file", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_is_short_enough_to_be_read_in_one_go() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_reward_rises(one_file: ModuleType, tmp_path: Path) -> None:
    rewards = asyncio.run(one_file.train_grpo(tmp_path, 8))
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.15


def test_advantages_and_loss_are_those_of_the_production_loop(one_file: ModuleType) -> None:
    rewards = [0.0, 0.25, 1.0]
    assert one_file.group_advantages(rewards) == pytest.approx(advantages.group_advantages(rewards, "std"))
    assert one_file.token_weights([1, 3]) == advantages.token_weights([1, 3], "token", max_tokens=9)
    generator = torch.Generator().manual_seed(0)
    new, old, sampler, reference = (-torch.rand(32, generator=generator) * 2 for _ in range(4))
    advantage = torch.randn(32, generator=generator)
    weights = torch.full((32,), 1 / 32)
    clip = losses.ClipRange(one_file.CLIP_LOW, one_file.CLIP_HIGH, one_file.CLIP_DUAL)
    importance = losses.importance_weights(old, sampler, one_file.IMPORTANCE_CAP)
    torch.testing.assert_close(one_file.importance_weights(old, sampler), importance)
    ours = losses.policy_loss(
        new, old, advantage, clip=clip, weights=weights, importance=importance, reference=reference,
        kl_coef=one_file.KL_COEF,
    ).loss  # fmt: skip
    found = one_file.policy_loss(new, old, advantage, weights=weights, importance=importance, reference=reference)
    torch.testing.assert_close(found, ours)
