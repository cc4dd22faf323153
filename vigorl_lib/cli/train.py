"""`vigorl train`: the trainer as a local process, and for GRPO its rollout producer beside it.

In a cluster a PyTorchJob runs the same programs (`torchrun -m vigorl_services.trainer …`).
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError
from vigorl_lib.recipes.check import Stage, check_recipe
from vigorl_lib.recipes.schema import Recipe


def _check(stage: Stage, recipe: Recipe) -> None:
    """Say on stderr what a dry run finds. Raises ConfigError (RECIPE_UNFIT)."""
    findings = check_recipe(recipe, stage)
    for finding in findings:
        click.echo(str(finding), err=True)
    if wrong := [finding for finding in findings if finding.level == "error"]:
        raise ConfigError(f"{len(wrong)} of {len(findings)} findings cannot work: see above", reason="RECIPE_UNFIT")


@click.group()
def train() -> None:
    """Train: sft, grpo."""


@train.command()
@click.option("--stage", default="sft", show_default=True, help="Name of the stage within the run.")
@recipe_options(default="quickstart-sft", check=partial(_check, "sft"))
def sft(recipe: Recipe, stage: str) -> None:
    """Supervised fine-tuning on chains."""
    train_stage("sft", recipe, stage=stage)


@train.command()
@click.option("--stage", default="grpo", show_default=True, help="Name of the stage within the run.")
@recipe_options(default="quickstart-grpo", calls_services=True, check=partial(_check, "grpo"))
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
            log=folder / f"{recipe.run_id}-{stage}-{part}.log",
        ).start()
        for part in ((kind, "producer") if kind == "grpo" else (kind,))
    ]
    with Progress(f"train: {stage}") as progress:

        def show() -> None:
            for record in processes[0].log_records():
                if "step" in record and "steps" in record:
                    progress(record["step"], record["steps"], note=record["msg"].partition(": ")[2].partition(": ")[2])

        wait_all(processes, show)
        show()
