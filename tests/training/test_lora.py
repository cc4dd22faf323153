"""Adapters: they alone are trained, every ZeRO stage agrees, and what leaves a run is one whole model without them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.conftest import CAPTIONS
from tests.training.support import DEADLINE_S, ENGINE, sft_values, trainer, wait_for, write_recipe
from vigorl_lib.errors import ConfigError
from vigorl_lib.models.loading import load_model
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.checkpoint import checkpoint_steps, export_hf
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.lora import merged
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.sft import train_sft

LORA = {"rank": 4, "alpha": 16.0, "modules": ["q_proj", "down_proj"]}
ADAPTED = {**ENGINE, "learning_rate": 1e-2, "lora": LORA, "freeze": ["visual"]}


def train(storage: Storage, run_id: str, **changes: Any) -> list[dict[str, float]]:
    train_sft(SftConfig.model_validate(sft_values(**changes)), storage=storage, run_id=run_id, seed=3)
    return read_metrics(RunLayout(storage, run_id))


def losses(records: list[dict[str, float]]) -> list[float]:
    return [record["loss"] for record in records]


def state(uri: str) -> dict[str, Tensor]:
    return dict(load_model(uri, device="cpu").model.state_dict())


def model_of(storage: Storage, run_id: str) -> dict[str, Tensor]:
    return state(f"{storage.uri}/runs/{run_id}/model")


def test_an_adapter_is_added_to_its_weight_and_to_nothing_else() -> None:
    weights = {
        "a.q.base_layer.weight": torch.zeros(3, 2),
        "a.q.base_layer.bias": torch.ones(3),
        "a.q.lora_A.default.weight": torch.tensor([[1.0, 2.0]]),
        "a.q.lora_B.default.weight": torch.tensor([[1.0], [0.0], [-1.0]]),
        "a.norm.weight": torch.ones(2),
    }
    found: Mapping[str, Tensor] = merged(weights, 4.0)
    assert list(found) == ["a.q.weight", "a.q.bias", "a.norm.weight"]
    assert found["a.q.weight"].tolist() == [[4.0, 8.0], [0.0, 0.0], [-4.0, -8.0]]
    assert found["a.q.bias"].tolist() == [1.0, 1.0, 1.0]


def test_only_adapted_layers_move_and_the_model_says_what_the_run_said(storage: Storage) -> None:
    pytest.importorskip("peft")
    held_out = [{"chains": CAPTIONS, "limit": 8}]
    records = train(storage, "run", steps=12, engine=ADAPTED, validation=held_out)
    assert losses(records)[-1] < 0.9 * losses(records)[0]
    before, after = state(f"{storage.uri}/tiny"), model_of(storage, "run")
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    layers = [name for name in before if name.endswith(("q_proj.weight", "down_proj.weight")) and "visual" not in name]
    assert moved == set(layers)
    # The first loss of a run that starts from this model is this run's last evaluation.
    again = train(storage, "again", init="runs/run/model", steps=1, sources=held_out)
    assert again[0]["loss"] == pytest.approx(records[-1]["validation_loss"], abs=1e-5)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_every_zero_stage_gives_the_same_losses_and_exports_the_same_model(
    storage: Storage, tmp_path: Path, zero_stage: int
) -> None:
    pytest.importorskip("peft")
    plain = train(storage, "plain", steps=4, engine=ADAPTED)
    found = train(storage, "zero", steps=4, engine={**ADAPTED, "zero_stage": zero_stage}, checkpoint={"every": 3})
    assert losses(found) == pytest.approx(losses(plain), abs=1e-4)
    ours, theirs = model_of(storage, "zero"), model_of(storage, "plain")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    assert export_hf(RunLayout(storage, "zero"), tmp_path / "exported") == 3
    train(storage, "three", steps=3, engine=ADAPTED)
    exported, expected = state(str(tmp_path / "exported")), model_of(storage, "three")
    assert all(torch.allclose(exported[name], expected[name], atol=1e-5) for name in expected)


def test_a_run_with_adapters_continues_with_the_same_losses(storage: Storage) -> None:
    pytest.importorskip("peft")
    whole = train(storage, "whole", steps=6, engine=ADAPTED)

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 5:
            raise KeyboardInterrupt

    config = SftConfig.model_validate(sft_values(steps=6, engine=ADAPTED))
    with pytest.raises(KeyboardInterrupt):
        train_sft(config, storage=storage, run_id="cut", seed=3, on_step=stop)
    assert losses(train(storage, "cut", steps=6, engine=ADAPTED)) == pytest.approx(losses(whole), abs=1e-6)


@pytest.mark.slow
def test_two_ranks_then_one_train_the_adapters_of_one(storage: Storage) -> None:
    pytest.importorskip("peft")
    engine = {**ADAPTED, "zero_stage": 3}
    recipe = write_recipe(storage, sft=sft_values(steps=10, engine=engine), seed=3)
    layout = RunLayout(storage, "run/sft")
    launcher = trainer(recipe, "sft", processes=2)
    wait_for(lambda: bool(checkpoint_steps(layout)), launcher)
    launcher.terminate()
    launcher.wait(DEADLINE_S)
    assert len(read_metrics(layout)) < 10
    assert trainer(recipe, "sft").wait(DEADLINE_S) == 0
    assert losses(read_metrics(layout)) == pytest.approx(
        losses(train(storage, "alone", steps=10, engine=engine)), abs=1e-4
    )


def test_without_peft_a_run_with_adapters_is_refused(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="vigorl\\[train\\]") as caught:
        train(storage, "refused", engine=ADAPTED)
    assert caught.value.reason == "PEFT_MISSING"


def test_layers_that_the_model_does_not_have_are_refused(storage: Storage) -> None:
    with pytest.raises(ConfigError) as caught:
        train(storage, "refused", engine={**ENGINE, "lora": {"rank": 4, "modules": ["q_projection"]}})
    assert caught.value.reason == "MODULE_UNKNOWN"
