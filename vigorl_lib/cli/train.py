"""`vigorl train`: the trainer as a local process, and for GRPO its rollout producer beside it.

In a cluster a PyTorchJob runs the same programs (`torchrun -m vigorl_services.trainer …`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.recipes.schema import Recipe


@click.group()
def train() -> None:
    """Train: sft, grpo."""


@train.command()
@click.option("--stage", default="sft", show_default=True, help="Name of the stage within the run.")
@recipe_options(default="quickstart-sft")
def sft(recipe: Recipe, stage: str) -> None:
    """Supervised fine-tuning on chains."""
    train_stage("sft", recipe, stage=stage)


@train.command()
@click.option("--stage", default="grpo", show_default=True, help="Name of the stage within the run.")
@recipe_options(default="quickstart-grpo")
def grpo(recipe: Recipe, stage: str) -> None:
    """Group-relative policy optimisation against running services."""
    train_stage("grpo", recipe, stage=stage)


def train_stage(kind: str, recipe: Recipe, *, stage: str) -> None:
    """Run a stage to its end as local processes; the same call again continues. Raises ProcessError."""
    from vigorl_lib.jobs.local import LocalProcess, wait_all

    # A bucket holds no logs: they stay where the command runs.
    folder = Path("runs" if "://" in recipe.root else recipe.root) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    resolved = folder / f"{recipe.run_id}-{stage}.json"
    resolved.write_text(json.dumps(recipe.model_dump(mode="json"), indent=2), encoding="utf-8")
    processes = [
        LocalProcess(
            f"trainer {part}",
            [sys.executable, "-m", "vigorl_services.trainer", part, "--recipe", str(resolved), "--stage", stage],
            # The learner tells the progress of both.
            log=folder / f"{recipe.run_id}-{stage}-producer.log" if part == "producer" else None,
        ).start()
        for part in (("grpo", "producer") if kind == "grpo" else (kind,))
    ]
    wait_all(processes)
