"""`vigorl evaluate`: measure a policy on a data set, one cell per mode."""

from __future__ import annotations

import json

import click

from vigorl_lib.cli.common import recipe_options, run_async
from vigorl_lib.cli.progress import Progress
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.recipes.schema import Recipe


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@recipe_options(default="quickstart-evaluate")
def evaluate(recipe: Recipe, as_json: bool) -> None:
    """Measure a policy on a data set."""
    from vigorl_lib.evaluation.table import cells_to_json, render_table

    cells = run_async(evaluate_policy(recipe))
    click.echo(json.dumps(cells_to_json(cells), indent=2) if as_json else render_table(cells))


async def evaluate_policy(recipe: Recipe) -> dict[tuple[str, str], list[SampleRecord]]:
    """Sample records by (policy, mode); what a killed call recorded is not asked again."""
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.evaluation.run import evaluate as measure
    from vigorl_lib.rollout.step import Stepper
    from vigorl_lib.rollout.wiring import connect
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    layout = RunLayout(storage, recipe.run_id)
    settings = recipe.evaluation
    examples = read_dataset(
        storage, ImageStore(storage), recipe.dataset.name, recipe.dataset.split, settings.limit or None
    )
    cells = {}
    async with connect(recipe.services, recipe.policy) as wired:
        for mode in settings.modes:
            task = recipe.task.model_copy(update={"mode": mode, "prompt": "", "temperature": settings.temperature})
            with Progress(f"evaluate: {recipe.policy}, {mode}") as progress:
                cells[recipe.policy, mode] = await measure(
                    examples,
                    Stepper(wired.policy, wired.environment, task),
                    wired.reward,
                    recipe.reward,
                    storage=storage,
                    prefix=f"{layout.root}/evaluation/{recipe.policy}/{mode}",
                    seed=recipe.seed,
                    max_in_flight=settings.max_in_flight,
                    keep_trajectories=settings.keep_trajectories,
                    on_sample=progress.count,
                )
    return cells
