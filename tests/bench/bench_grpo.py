"""A GRPO step with the tiny model through the services, phase by phase."""

from __future__ import annotations

from statistics import median

from tests.bench.training import prepare, recipe
from vigorl_lib.cli.train import train_stage
from vigorl_lib.cli.up import running_services
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.metrics import read_metrics

STEPS = 8


def run() -> dict[str, float]:
    root = prepare()
    policy = {
        "name": "student",
        "model": str(root / "models" / "tiny"),
        "trainable_by": "bench/grpo",
        "weights_root": str(root / "runs" / "bench" / "grpo" / "weights"),
        "max_context_tokens": 1024,
    }
    values = {"grpo.steps": STEPS, "grpo.init": "models/tiny", "grpo.checkpoint.every": 0, "run_id": "bench"}
    # A random model earns nothing: without this every group would be left out and nothing would be timed.
    values |= {"grpo.drop_zero_variance": False}
    with running_services(
        root / "services", {"student": {"policy": policy, "root": str(root)}}, root=str(root)
    ) as targets:
        train_stage("grpo", recipe("quickstart-grpo", root, **values, services=targets), stage="grpo")
    metrics = read_metrics(RunLayout(open_storage(str(root)), "bench/grpo"))[2:]
    names = ("rollout_s", "wait_s", "update_s", "publish_s")
    figures = {name: median(m[name] for m in metrics) for name in names}
    return figures | {"rollouts_per_s": 64 / figures["rollout_s"], "step_s": sum(figures[name] for name in names[1:])}
