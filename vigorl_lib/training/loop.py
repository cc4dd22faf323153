"""The loop around the steps of a stage: resume, step, record, checkpoint, and the model at the end.

What one step does is the caller's (`sft.py`, `grpo.py`); this module makes sure that a stage can be killed
anywhere and be started again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.checkpoint import Checkpoints, commit_model, model_uri
from vigorl_lib.training.config import CheckpointConfig
from vigorl_lib.training.learner import Learner
from vigorl_lib.training.metrics import MetricsWriter
from vigorl_lib.training.ranks import StageStopped, raise_if_stopped, stopping_on_sigterm

log = logging.getLogger(__name__)

OnStep = Callable[[int, int, dict[str, float]], None]
"""Called on rank 0 with the steps done, all steps, and the metrics of the last one."""

_SHOWN = (
    "loss",
    "validation_loss",
    "reward",
    "outcome_correct",
    "zoom_rate",
    "kl",
    "mismatch",
    "grad_norm",
    "learning_rate",
    "tokens_per_s",
    "wait_s",
    "update_s",
)
"""Metrics that a log line shows; all of them are on record."""


def run_stage(
    learner: Learner,
    layout: RunLayout,
    *,
    init: str,
    steps: int,
    step: Callable[[int], dict[str, float]],
    checkpoint: CheckpointConfig,
    log_every: int,
    on_resume: Callable[[int], None] | None = None,
    is_done: Callable[[], bool] | None = None,
    on_step: OnStep | None = None,
) -> str:
    """Do the steps that are not done yet, each by its number from 0, and commit the model; returns its URI.

    `on_resume` is told the first step to do, before it is done; where `is_done` says so, on all ranks alike, no further
    step is done. SIGTERM ends the stage between two steps with a checkpoint: raises StageStopped.
    """
    checkpoints = Checkpoints(layout, learner.engine, checkpoint, init=init)
    first = checkpoints.resume()
    log.info("%s: from step %d of %d, starting from %s", layout.run_id, first, steps, init)
    if on_resume is not None:
        on_resume(first)
    done = first
    with (
        stopping_on_sigterm(),
        MetricsWriter(layout) if learner.engine.rank == 0 else nullcontext() as metrics,
    ):
        try:
            for number in range(first, steps):
                raise_if_stopped()
                if is_done is not None and is_done():
                    log.info("%s: ended early, after step %d of %d", layout.run_id, done, steps)
                    break
                record, done = step(number), number + 1
                if metrics is not None:
                    metrics.write(done, record)
                    if done % log_every == 0 or done == steps:
                        _log(layout.run_id, done, steps, record)
                    if on_step is not None:
                        on_step(done, steps, record)
                if checkpoint.every and done % checkpoint.every == 0 and done < steps:
                    if metrics is not None:
                        metrics.flush()
                    checkpoints.save(done)
        except StageStopped:
            if checkpoint.every and done > first and done % checkpoint.every:
                if metrics is not None:
                    metrics.flush()
                checkpoints.save(done)
            log.info("%s: stopped after step %d of %d", layout.run_id, done, steps)
            raise
    weights = learner.weights(averaged=learner.config.ema_decay > 0.0)
    if learner.engine.rank == 0:
        commit_model(layout, init, weights, step=done)
    learner.engine.barrier()
    return model_uri(layout)


def _log(name: str, done: int, steps: int, record: dict[str, float]) -> None:
    values = ", ".join(f"{key} {record[key]:.4g}" for key in _SHOWN if key in record)
    log.info("%s: step %d/%d: %s", name, done, steps, values, extra={"step": done, "steps": steps})
