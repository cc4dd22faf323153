"""SFT with the real engine on the tiny model: it learns, it resumes exactly, ranks agree, models are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import CAPTIONS
from tests.training.support import DEADLINE_S, ENGINE, sft_values, trainer, wait_for, write_recipe
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.models.loading import load_model
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.commit import verify
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_lib.training.checkpoint import checkpoint_steps, export_hf, model_key
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.sft import train_sft


def losses(storage: Storage, run_id: str) -> list[float]:
    return [record["loss"] for record in read_metrics(RunLayout(storage, run_id))]


def train(storage: Storage, run_id: str, **changes: object) -> str:
    return train_sft(SftConfig.model_validate(sft_values(**changes)), storage=storage, run_id=run_id, seed=3)


def state(uri: str) -> dict[str, torch.Tensor]:
    return dict(load_model(uri, device="cpu").model.state_dict())


def test_the_loss_falls_and_the_model_is_committed_whole(storage: Storage) -> None:
    uri = train(storage, "whole", steps=24, validation=[{"chains": CAPTIONS, "limit": 8}], checkpoint={"every": 10})
    layout = RunLayout(storage, "whole")
    found = losses(storage, "whole")
    assert len(found) == 24
    assert sum(found[-4:]) < 0.6 * sum(found[:4])
    records = read_metrics(layout)
    assert records[-1]["validation_loss"] < found[0]
    assert 0.0 <= records[0]["padding_share"] < 0.5
    assert verify(storage, model_key(layout))["step"] == 24
    assert checkpoint_steps(layout) == [10, 20]
    # Doing it again finds the model and trains nothing.
    assert train(storage, "whole", steps=24) == uri
    assert len(losses(storage, "whole")) == 24


def test_a_killed_run_continues_with_the_same_losses(storage: Storage) -> None:
    recipe = write_recipe(storage, sft=sft_values(steps=40), seed=3)
    layout = RunLayout(storage, "run/sft")
    process = trainer(recipe, "sft")
    wait_for(
        lambda: bool(checkpoint_steps(layout)) and len(read_metrics(layout)) > checkpoint_steps(layout)[-1], process
    )
    process.kill()
    process.wait()
    assert 4 <= len(losses(storage, "run/sft")) < 40
    train(storage, "run/sft", steps=40)
    train(storage, "uninterrupted", steps=40)
    assert losses(storage, "run/sft") == pytest.approx(losses(storage, "uninterrupted"), abs=1e-6)
    ours, theirs = (state(f"{storage.uri}/runs/{run}/model") for run in ("run/sft", "uninterrupted"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


def test_two_processes_give_the_losses_of_one(storage: Storage) -> None:
    engine = {**ENGINE, "micro_batch": 3}
    recipe = write_recipe(storage, sft=sft_values(steps=5, engine={**engine, "zero_stage": 2}), seed=3)
    assert trainer(recipe, "sft", processes=2).wait(DEADLINE_S) == 0
    train(storage, "alone", steps=5, engine=engine)
    assert losses(storage, "run/sft") == pytest.approx(losses(storage, "alone"), abs=1e-4)
    norms = [[record["grad_norm"] for record in read_metrics(RunLayout(storage, run))] for run in ("run/sft", "alone")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_frozen_tower_gives_the_same_first_loss_and_does_not_move(storage: Storage) -> None:
    train(storage, "trained", steps=2)
    uri = train(storage, "frozen", steps=2, engine={**ENGINE, "freeze": ["visual"]})
    assert losses(storage, "frozen")[0] == pytest.approx(losses(storage, "trained")[0], abs=1e-5)
    before, after = state(f"{storage.uri}/tiny"), state(uri)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(".visual." in name for name in moved)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_every_zero_stage_gives_the_same_losses(storage: Storage, zero_stage: int) -> None:
    engine = {**ENGINE, "micro_batch": 3, "gradient_checkpointing": True}
    train(storage, "plain", steps=4, engine=engine)
    train(storage, "zero", steps=4, engine={**engine, "zero_stage": zero_stage})
    assert losses(storage, "zero") == pytest.approx(losses(storage, "plain"), abs=1e-4)
    train(storage, "half", steps=4, engine={**engine, "zero_stage": zero_stage, "dtype": "bf16"})
    assert losses(storage, "half") == pytest.approx(losses(storage, "plain"), abs=0.05)


def test_a_bucket_holds_checkpoints_and_models_like_a_folder(storage: Storage, s3_storage: S3Storage) -> None:
    for key in storage.list():
        s3_storage.write(key, storage.read(key))
    changes = {"steps": 4, "checkpoint": {"every": 2}, "init": f"{storage.uri}/tiny"}

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    config = SftConfig.model_validate(sft_values(**changes))
    with pytest.raises(KeyboardInterrupt):
        train_sft(config, storage=s3_storage, run_id="run", seed=3, on_step=stop)
    assert checkpoint_steps(RunLayout(s3_storage, "run")) == [2]
    train_sft(config, storage=s3_storage, run_id="run", seed=3)
    train(storage, "folder", **changes)
    assert losses(s3_storage, "run") == pytest.approx(losses(storage, "folder"), abs=1e-6)
    verify(s3_storage, model_key(RunLayout(s3_storage, "run")))


def test_a_checkpoint_exports_as_a_model(storage: Storage, tmp_path: Path) -> None:
    layout = RunLayout(storage, "zero")
    train(storage, "zero", steps=4, checkpoint={"every": 2}, engine={**ENGINE, "zero_stage": 3})
    assert checkpoint_steps(layout) == [2]
    assert export_hf(layout, tmp_path / "exported") == 2
    exported = state(str(tmp_path / "exported"))
    assert all(torch.isfinite(tensor).all() for tensor in exported.values())
    train(storage, "two", steps=2, engine={**ENGINE, "zero_stage": 0})
    # The schedule of two steps differs after the warm-up only, which has not ended.
    final = state(f"{storage.uri}/runs/two/model")
    assert all(torch.allclose(exported[name], final[name], atol=1e-5) for name in final)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init": ""}, "INIT_MISSING"),
        ({"sources": []}, "SOURCES_MISSING"),
        ({"steps": 0}, "STEPS_MISSING"),
        ({"engine": {**ENGINE, "freeze": ["vision"]}}, "MODULE_UNKNOWN"),
    ],
)
def test_settings_that_cannot_work_are_refused(storage: Storage, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train(storage, "refused", **changes)
    assert caught.value.reason == reason


def test_a_source_without_chains_of_the_wanted_mode_is_refused(storage: Storage) -> None:
    with pytest.raises(DataError, match="multi_turn"):
        train(storage, "refused", sources=[{"chains": CAPTIONS, "modes": ["multi_turn"]}])


def test_settings_that_a_checkpoint_was_not_made_with_are_named(storage: Storage) -> None:
    recipe = SftConfig.model_validate(sft_values(steps=6, checkpoint={"every": 2}))

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sft(recipe, storage=storage, run_id="changed", seed=3, on_step=stop)
    others: list[dict[str, Any]] = [
        {"zero_stage": 1},
        {"zero_stage": 1, "dtype": "bf16"},
        {"dtype": "bf16", "optimizer": "adamw_kahan"},
        {"freeze": ["visual"]},
        {"lora": {"rank": 2}},
        {"module_lr": {"embed_tokens": 0.5}},
        {"weight_decay": 0.0},
        {"ema_decay": 0.5},
    ]
    for changed in others:
        with pytest.raises(ConfigError) as caught:
            train(storage, "changed", steps=6, engine={**ENGINE, **changed})
        assert caught.value.reason == "RESUME_MISMATCH"
        assert all(name in caught.value.message for name in changed)
    # What the state does not depend on may change.
    train(storage, "changed", steps=6, engine={**ENGINE, "micro_batch": 2, "learning_rate": 1e-3, "clip_norm": 0.5})
    assert len(read_metrics(RunLayout(storage, "changed"))) == 6
