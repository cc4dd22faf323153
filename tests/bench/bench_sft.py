"""SFT on captions with the tiny model: speed, padding, and what starting costs."""

from __future__ import annotations

import time
from statistics import median

from tests.bench.training import prepare, recipe
from vigorl_lib.cli.train import train_stage
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.metrics import read_metrics

STEPS = 40


def run() -> dict[str, float]:
    root = prepare()
    values = {"sft.steps": STEPS, "sft.checkpoint.every": 0, "run_id": "bench"}
    begin = time.monotonic()
    train_stage("sft", recipe("quickstart-captions", root, **values), stage="sft")
    wall = time.monotonic() - begin
    metrics = read_metrics(RunLayout(open_storage(str(root)), "bench/sft"))[5:]
    step_s = median(m["seconds"] for m in metrics)
    return {
        "tokens_per_s": median(m["tokens_per_s"] for m in metrics),
        "padding_share": median(m["padding_share"] for m in metrics),
        "step_ms": 1e3 * step_s,
        "start_and_end_s": wall - STEPS * step_s,
    }
