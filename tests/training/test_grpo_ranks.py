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
from vigorl_lib.training.metrics import read_metrics


def trained(storage: Storage, processes: int, values: dict[str, object]) -> RunLayout:
    recipe = write_recipe(storage, grpo=values, task=TASK.model_dump(mode="json"))
    assert trainer(recipe, "grpo", processes=processes).wait(DEADLINE_S) == 0
    return RunLayout(storage, RUN)


def test_two_ranks_take_the_steps_of_one(storage: Storage, tmp_path: Path) -> None:
    config = grpo_config(steps=1, prompts=4, updates=2, kl_coef=0.05, engine={"learning_rate": 1e-3, "micro_batch": 4})
    with producing(config, storage) as problems:
        pass
    assert not problems
    assert read_step(RunLayout(storage, RUN), 0) is not None
    shutil.copytree(tmp_path / "root", tmp_path / "second" / "root")
    values = config.model_dump(mode="json")
    alone = trained(storage, 1, values)
    together = trained(open_storage(str(tmp_path / "second" / "root")), 2, values)
    (one,), (two,) = read_metrics(alone), read_metrics(together)
    for name in ("loss", "grad_norm", "kl", "clip_share", "mismatch", "trained_tokens"):
        assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-6), name
    assert one["grad_norm"] > 0
    first, second = (
        load_model(f"{layout.storage.uri}/{layout.root}/model", device="cpu").model.state_dict()
        for layout in (alone, together)
    )
    assert all(torch.allclose(first[name], second[name], atol=2e-5) for name in first)
