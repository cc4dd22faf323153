"""Checkpoints: what is kept, how another number of ranks takes one up, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.conftest import CAPTIONS
from tests.training.sft_stages import forget_model, train_stage
from tests.training.support import DEADLINE_S, ENGINE, free_port, sft_values
from vigorl_lib.errors import ConfigError, ObjectNotFound
from vigorl_lib.storage import commit
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.config import S3Settings
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.storage.s3 import S3Storage
from vigorl_lib.training.checkpoint import (
    best_step,
    checkpoint_steps,
    export_hf,
    find_step,
    local_checkpoint,
    newest_step,
    trained_weights,
)
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.metrics import MetricsWriter, read_metrics
from vigorl_lib.training.sft import train_sft


def losses(storage: Storage, run_id: str) -> list[float]:
    return [record["loss"] for record in read_metrics(RunLayout(storage, run_id))]


def on_two_ranks(storage: Storage, zero_stage: int, steps: int) -> None:
    command = [sys.executable, "-m", "tests.training.sft_stages", storage.uri, str(steps), str(zero_stage)]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    try:
        assert [rank.wait(DEADLINE_S) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.mark.parametrize("zero_stage", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_two_ranks_then_one_then_two_give_the_losses_of_one_rank(
    storage: Storage, zero_stage: int, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = RunLayout(storage, f"zero-{zero_stage}")
    on_two_ranks(storage, zero_stage, steps=4)
    forget_model(storage, layout.run_id)
    capfd.readouterr()
    train_stage(storage, layout.run_id, zero_stage, 8)
    # A log of JSON lines has no place for the converter's bars.
    assert "it/s" not in capfd.readouterr().err
    forget_model(storage, layout.run_id)
    on_two_ranks(storage, zero_stage, steps=12)
    train_stage(storage, "alone", 0, 12)
    assert losses(storage, layout.run_id) == pytest.approx(losses(storage, "alone"), abs=1e-4)
    # What two ranks saved is what DeepSpeed's own tool reads out of it.
    check_against_deepspeed(layout)


@pytest.mark.slow
def test_a_bucket_gives_one_rank_what_two_have_saved(
    storage: Storage, s3_storage: S3Storage, s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("endpoint", "access_key", "secure"):
        monkeypatch.setenv(f"VIGORL_S3__{name.upper()}", str(getattr(s3_settings, name)))
    monkeypatch.setenv("VIGORL_S3__SECRET_KEY", s3_settings.secret_key.get_secret_value())
    for key in storage.list():
        s3_storage.write(key, storage.read(key))
    layout = RunLayout(s3_storage, "zero-3")
    on_two_ranks(s3_storage, 3, steps=4)
    forget_model(s3_storage, layout.run_id)
    train_stage(s3_storage, layout.run_id, 3, 6)
    train_stage(storage, "alone", 0, 6)
    assert losses(s3_storage, layout.run_id) == pytest.approx(losses(storage, "alone"), abs=1e-4)
    assert export_hf(layout, tmp_path / "model") == 4
    assert (tmp_path / "model" / "model.safetensors").is_file()


def check_against_deepspeed(layout: RunLayout) -> None:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with local_checkpoint(layout, newest_step(layout)) as (folder, meta):
        assert meta["world"] == 2
        expected = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag="state")
        found = trained_weights(folder, meta)
        assert {f"model.{name}" for name in found} == set(expected)
        assert all(torch.equal(found[name], expected[f"model.{name}"]) for name in found)


def test_the_newest_checkpoints_and_the_best_one_are_kept(storage: Storage) -> None:
    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 11:
            raise KeyboardInterrupt

    # The loss falls, so the highest one is that of the first checkpoint.
    rule = {"every": 2, "keep": 2, "best_metric": "validation_loss", "best_mode": "max"}
    validation = {"validation": [{"chains": CAPTIONS, "limit": 4}], "evaluate_every": 2}
    values = sft_values(steps=12, engine={**ENGINE, "micro_batch": 8}, checkpoint=rule, **validation)
    config = SftConfig.model_validate(values)
    layout = RunLayout(storage, "best")
    # As a kill leaves it, in the middle of a save or of a deletion.
    storage.write(f"{layout.checkpoint(3)}/state/mp_rank_00_model_states.pt", b"half")
    with pytest.raises(KeyboardInterrupt):
        train_sft(config, storage=storage, run_id="best", seed=3, on_step=stop)
    assert checkpoint_steps(layout) == [2, 8, 10]
    assert best_step(layout) == find_step(layout, "best") == 2
    assert find_step(layout, None) == find_step(layout, "10") == 10
    # Nothing of the pruned ones is left behind.
    kept = tuple(f"{layout.checkpoint(step)}/" for step in (2, 8, 10))
    assert all(key.startswith(kept) for key in storage.list(f"{layout.checkpoints}/"))


def test_a_checkpoint_without_its_marker_does_not_exist(storage: Storage) -> None:
    layout = RunLayout(storage, "run")
    storage.write(f"{layout.checkpoint(4)}/state/mp_rank_00_model_states.pt", b"half")
    assert checkpoint_steps(layout) == []
    with pytest.raises(ObjectNotFound) as caught:
        newest_step(layout)
    assert caught.value.reason == "NO_CHECKPOINT"
    commit.commit(storage, layout.checkpoint(4), {"step": 4, "best_metric": "loss", "best_mode": "min"})
    assert newest_step(layout) == 4
    assert best_step(layout) is None
    older = local_checkpoint(layout, 4)
    with pytest.raises(ConfigError, match="a release that did not note engine, init, world") as refused, older:
        pass
    assert refused.value.reason == "RESUME_MISMATCH"


@pytest.mark.parametrize(("mode", "best"), [("max", 4), ("min", 2)])
def test_a_validation_of_grpo_counts_for_the_weights_that_it_asked(storage: Storage, mode: str, best: int) -> None:
    layout = RunLayout(storage, "grpo")
    for step in (2, 4, 6):
        storage.write(f"{layout.checkpoint(step)}/state/mp_rank_00_model_states.pt", b"all")
        rule = {"best_metric": "validation_correct_single_turn", "best_mode": mode}
        commit.commit(storage, layout.checkpoint(step), {"step": step, **rule})
    with MetricsWriter(layout) as metrics:
        # Rollouts of the third step come from the weights after two, and so on; those after six are not asked yet.
        for step, correct in ((1, 0.1), (3, 0.4), (5, 0.6)):
            validated = {"validation_version": step - 1, "validation_correct_single_turn": correct}
            metrics.write(step, {"reward": 0.5, **validated})
            metrics.write(step + 1, {"reward": 0.5})
    assert best_step(layout) == best
