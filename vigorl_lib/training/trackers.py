"""Metrics of a run shown elsewhere: TensorBoard, Weights & Biases, MLflow, each optional and named in the recipe.

The record of a run is its metrics in storage (`vigorl_lib.training.metrics`); a tracker only shows them. Where a
tracker sends them is its own business: W&B and MLflow read their usual environment variables.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from vigorl_lib.errors import ConfigError
from vigorl_lib.storage.layout import RunLayout

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
Log = Callable[[int, Mapping[str, float]], None]


@contextmanager
def tracking(names: Sequence[TrackerName], layout: RunLayout) -> Iterator[Callable[[int, int, dict[str, float]], None]]:
    """Gives the `on_step` of a stage, which tells every named tracker; closed with the block.

    Trackers are opened at the first step, so that only the rank that reports them does.
    Raises ConfigError (TRACKER_MISSING) for one that is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers: {name} is not installed; pip install {name}, or leave it out", reason="TRACKER_MISSING"
            )
    with ExitStack() as stack:
        logs: list[Log] = []

        def on_step(done: int, _steps: int, record: dict[str, float]) -> None:
            if not logs:
                logs.extend(stack.enter_context(_OPEN[name](layout)) for name in names)
            for log in logs:
                log(done, record)

        yield on_step


@contextmanager
def _tensorboard(layout: RunLayout) -> Iterator[Log]:
    """Event files beside the run, or in the working directory where storage is not a folder."""
    folder = layout.storage.local_path(f"{layout.root}/tensorboard") or Path("tensorboard") / layout.run_id
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder))

    def log(step: int, record: Mapping[str, float]) -> None:
        for name, value in record.items():
            writer.add_scalar(name, value, step)

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _wandb(layout: RunLayout) -> Iterator[Log]:
    """One W&B run a stage; a stage that is started again continues it."""
    name = layout.run_id.replace("/", "-")
    run = importlib.import_module("wandb").init(id=name, name=layout.run_id, resume="allow")
    try:
        yield lambda step, record: run.log(dict(record), step=step)
    finally:
        run.finish()


@contextmanager
def _mlflow(layout: RunLayout) -> Iterator[Log]:
    mlflow = importlib.import_module("mlflow")
    with mlflow.start_run(run_name=layout.run_id):
        yield lambda step, record: mlflow.log_metrics(dict(record), step=step)


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
