"""SIGTERM ends a stage between two steps: with a checkpoint, exit status 0, and nothing lost."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.training.support import DEADLINE_S, sft_values, trainer, wait_for, write_recipe
from tests.training.test_grpo import TASK, grpo_config
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.checkpoint import checkpoint_steps, has_model
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.sft import train_sft


def catches_sigterm(pid: int) -> bool:
    """Whether the process has come to its steps: from there on it arranges for SIGTERM itself."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def metrics_begun(layout: RunLayout) -> bool:
    return bool(list(layout.storage.list(layout.metrics)))


def test_an_sft_run_saves_where_it_is_and_goes_on_from_there(storage: Storage) -> None:
    values = sft_values(steps=60, checkpoint={"every": 1000, "keep": 1})
    recipe = write_recipe(storage, sft=values)
    layout = RunLayout(storage, "run/sft")
    process = trainer(recipe, "sft")
    wait_for(lambda: metrics_begun(layout), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    (saved,) = checkpoint_steps(layout)
    done = len(read_metrics(layout))
    assert 1 <= saved == done < 60
    assert not has_model(layout)
    train_sft(SftConfig.model_validate(values), storage=storage, run_id="run/sft", seed=0)
    assert [record["step"] for record in read_metrics(layout)] == list(range(1, 61))
    assert has_model(layout)


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_step(storage: Storage) -> None:
    recipe = write_recipe(storage, sft=sft_values(steps=400, checkpoint={"every": 1000}))
    layout = RunLayout(storage, "run/sft")
    process = trainer(recipe, "sft", processes=2)
    wait_for(lambda: metrics_begun(layout), process)
    process.send_signal(signal.SIGTERM)
    process.wait(DEADLINE_S)  # torchrun itself ends with the signal that it passed on.
    assert checkpoint_steps(layout) == [len(read_metrics(layout))]


def test_a_grpo_learner_that_waits_for_rollouts_stops_at_once(storage: Storage) -> None:
    values = grpo_config(wait_timeout_s=3600.0).model_dump(mode="json")
    recipe = write_recipe(storage, grpo=values, task=TASK.model_dump(mode="json"))
    process = trainer(recipe, "grpo")
    wait_for(lambda: catches_sigterm(process.pid), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
