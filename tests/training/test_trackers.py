"""Trackers hear of every step; one that is not installed is said before anything is trained.

The trackers' packages are stood in for by modules that write down what they are told.
"""

from __future__ import annotations

import importlib.machinery
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from vigorl_lib.errors import ConfigError
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.trackers import tracking


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)


def test_every_tracker_hears_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            told.append(("tensorboard", Path(folder).relative_to(tmp_path).as_posix()))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append(("tensorboard", name, value, step))

        def close(self) -> None:
            told.append(("tensorboard", "closed"))

    def init(**options: Any) -> Any:
        told.append(("wandb", options["id"], options["resume"]))
        return SimpleNamespace(
            log=lambda record, step: told.append(("wandb", record, step)),
            finish=lambda: told.append(("wandb", "closed")),
        )

    @contextmanager
    def start_run(run_name: str) -> Any:
        told.append(("mlflow", run_name))
        yield
        told.append(("mlflow", "closed"))

    stand_in(monkeypatch, "tensorboard")
    stand_in(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    stand_in(monkeypatch, "wandb", init=init)
    stand_in(
        monkeypatch,
        "mlflow",
        start_run=start_run,
        log_metrics=lambda record, step: told.append(("mlflow", record, step)),
    )
    layout = RunLayout(open_storage(str(tmp_path)), "run/grpo")
    with tracking(("tensorboard", "wandb", "mlflow"), layout) as on_step:
        assert told == []
        on_step(1, 2, {"loss": 0.5})
        on_step(2, 2, {"loss": 0.25})
    assert told == [
        ("tensorboard", "runs/run/grpo/tensorboard"),
        ("wandb", "run-grpo", "allow"),
        ("mlflow", "run/grpo"),
        ("tensorboard", "loss", 0.5, 1),
        ("wandb", {"loss": 0.5}, 1),
        ("mlflow", {"loss": 0.5}, 1),
        ("tensorboard", "loss", 0.25, 2),
        ("wandb", {"loss": 0.25}, 2),
        ("mlflow", {"loss": 0.25}, 2),
        ("mlflow", "closed"),
        ("wandb", "closed"),
        ("tensorboard", "closed"),
    ]


def test_a_tracker_that_is_not_installed_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    layout = RunLayout(open_storage(str(tmp_path)), "run")
    with pytest.raises(ConfigError, match="wandb is not installed") as caught, tracking(("wandb",), layout):
        pass
    assert caught.value.reason == "TRACKER_MISSING"
