"""A process of a test: SFT to some step, `python -m tests.training.sft_stages ROOT STEPS STAGE`.

Several ranks cannot do one after another in a process: DeepSpeed keeps groups of ranks that have ended.
"""

from __future__ import annotations

import sys

from tests.training.support import ENGINE, sft_values
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.checkpoint import model_key
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.sft import train_sft

PLAIN = {**ENGINE, "micro_batch": 3, "freeze": ["visual"], "schedule": {"warmup_steps": 3}}


def train_stage(storage: Storage, run_id: str, zero_stage: int, steps: int) -> None:
    """As far as `steps`, with a checkpoint before the last ones."""
    values = sft_values(steps=steps, engine={**PLAIN, "zero_stage": zero_stage}, checkpoint={"every": 2})
    train_sft(SftConfig.model_validate(values), storage=storage, run_id=run_id, seed=3)


def forget_model(storage: Storage, run_id: str) -> None:
    """A committed model ends a run; without it the run goes on from its last checkpoint."""
    for key in storage.list(f"{model_key(RunLayout(storage, run_id))}/"):
        storage.delete(key)


if __name__ == "__main__":
    root, steps, stage = sys.argv[1:]
    train_stage(open_storage(root), f"zero-{stage}", int(stage), int(steps))
