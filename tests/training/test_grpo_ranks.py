"""GRPO on two ranks takes the same steps as on one, on the same committed groups of rollouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.training.support import DEADLINE_S, trainer, write_recipe
from tests.training.test_grpo import RUN, TASK, grpo_config, producing
from vigorl_lib.models.loading import load_model
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.groups import read_step
from vigorl_lib.training.grpo import train_grpo
from vigorl_lib.training.metrics import read_metrics


def test_two_ranks_take_the_steps_of_one(storage: Storage, tmp_path: Path) -> None:
    config = grpo_config(steps=1, prompts=4, updates=2, kl_coef=0.05, engine={"learning_rate": 1e-3, "micro_batch": 4})
    with producing(config, storage) as problems:
        pass
    assert not problems
    assert read_step(RunLayout(storage, RUN), 0) is not None
    shutil.copytree(tmp_path / "root", tmp_path / "second" / "root")
    second = open_storage(str(tmp_path / "second" / "root"))
    train_grpo(config, task=TASK, storage=storage, run_id=RUN)
    recipe = write_recipe(second, grpo=config.model_dump(mode="json"), task=TASK.model_dump(mode="json"))
    assert trainer(recipe, "grpo", processes=2).wait(DEADLINE_S) == 0
    alone, together = RunLayout(storage, RUN), RunLayout(second, RUN)
    (one,), (two,) = read_metrics(alone), read_metrics(together)
    for name in ("loss", "grad_norm", "kl", "clip_share", "mismatch", "trained_tokens"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert one["grad_norm"] > 0
    ours, theirs = (
        load_model(f"{layout.storage.uri}/{layout.root}/model", device="cpu").model.state_dict()
        for layout in (alone, together)
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=2e-5) for name in ours)
