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
@recipe_options(default="quickstart-sft")
def sft(recipe: Recipe) -> None:
    """Supervised fine-tuning on chains."""
    train_stage("sft", recipe)


@train.command()
@recipe_options(default="quickstart-grpo")
def grpo(recipe: Recipe) -> None:
    """Group-relative policy optimisation against running services."""
    train_stage("grpo", recipe)


def train_stage(stage: str, recipe: Recipe, *, quiet: bool = False) -> None:
    """Run a stage to its end as local processes; the same call again continues. Raises ProcessError."""
    from vigorl_lib.jobs.local import LocalProcess, wait_all

    folder = Path(recipe.root) / "logs" if "://" not in recipe.root else Path("runs") / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    resolved = folder / f"{recipe.run_id}.json"
    resolved.write_text(json.dumps(recipe.model_dump(mode="json"), indent=2), encoding="utf-8")
    parts = ("grpo", "producer") if stage == "grpo" else (stage,)
    processes = [
        LocalProcess(
            f"trainer {part}",
            [sys.executable, "-m", "vigorl_services.trainer", part, "--recipe", str(resolved)],
            # The learner shows the progress of both.
            log=folder / f"{recipe.run_id}-{part}.log" if quiet or part == "producer" else None,
        ).start()
        for part in parts
    ]
    wait_all(processes)
