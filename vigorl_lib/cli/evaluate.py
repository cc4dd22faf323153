"""`vigorl eval`: measure a policy on a data set, one cell per mode; `vigorl compare`: two of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vigorl_lib.cli.benchmark import default_recipe, show_benchmarks
from vigorl_lib.cli.common import recipe_options, run_async, shard_option
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import EvaluationProgress, OnSample
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.shards import ALL, Shard

Failures = dict[str, PolicyError]
"""Evaluations of which samples failed, by what `vigorl compare` calls them, with what failed first."""


@click.command("eval")
@click.option("--benchmark", is_eager=True, callback=default_recipe, metavar="NAME", help="A benchmark's name, or all.")
@click.option("--files", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Import its files first.")
@click.option("--policy", help="Name of the policy, instead of the recipe's.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many questions.")
@click.option("--rescore", is_flag=True, help="Score the kept trajectories by this recipe's reward; asks no policy.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@shard_option
@recipe_options(default="quickstart-evaluate", calls_services=True)
def evaluate(
    recipe: Recipe,
    shard: Shard,
    benchmark: str | None,
    files: Path | None,
    policy: str | None,
    limit: int | None,
    rescore: bool,
    as_json: bool,
) -> None:
    """Measure a policy on a data set or a benchmark, in this process or by the service at services.evaluation."""
    from vigorl_lib.evaluation.table import cells_to_json, render_table, render_tags

    limited = recipe.evaluation.model_copy(update={"limit": limit or recipe.evaluation.limit})
    recipe = recipe.model_copy(update={"policy": policy or recipe.policy, "evaluation": limited})
    if rescore and shard != ALL:
        raise click.UsageError("--rescore does not go with --shard; it scores what all shards kept")
    if shard != ALL:
        told = f"shard {shard.index}/{shard.count}: the figures are of its questions alone"
        click.echo(f"{told}; once all shards are done, the same command without a shard prints those of all", err=True)
    if benchmark := benchmark or recipe.evaluation.benchmark:
        show_benchmarks(recipe, shard, benchmark, files, rescore=rescore, as_json=as_json)
        return
    if files is not None:
        raise click.UsageError("--files needs --benchmark NAME, or all")
    failures: Failures = {}
    cells = run_async(rescore_policy(recipe) if rescore else evaluate_policy(recipe, shard, failures=failures))
    if as_json:
        click.echo(json.dumps(cells_to_json(cells), indent=2))
    else:
        click.echo("\n\n".join(filter(None, (render_table(cells), render_tags(cells)))))
    refuse_incomplete(failures)


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
def compare(first: str, second: str, as_json: bool, root: str) -> None:
    """Two evaluations of the same questions, pair by pair: RUN-ID/POLICY/MODE each."""
    from vigorl_lib.evaluation.run import read_records, read_settings
    from vigorl_lib.evaluation.versus import render_versus, settings_apart, versus
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(root)

    def read(name: str) -> tuple[list[SampleRecord], dict[str, Any]]:
        parts = name.rsplit("/", 2)
        if len(parts) != 3:
            raise ConfigError(f"expected RUN-ID/POLICY/MODE, found {name!r}", reason="EVALUATION_UNKNOWN")
        run_id, policy, mode = parts
        prefix = RunLayout(storage, run_id).evaluation(policy, mode)
        found = read_records(storage, prefix)
        if not found:
            raise ConfigError(
                f"no records of {name} under {root}; run `vigorl eval --run-id {run_id}` first",
                reason="EVALUATION_UNKNOWN",
            )
        return found, read_settings(storage, prefix)

    (records, settings), (other_records, other_settings) = read(first), read(second)
    apart = settings_apart(settings, other_settings)
    found = versus(records, other_records)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"settings": apart}, indent=2))
        return
    click.echo(render_versus(found, "first", "second"))
    if apart:
        click.echo("\nasked differently:")
    for name, (one, another) in apart.items():
        click.echo(f"  {name}: {one} / {another}")


def refuse_incomplete(failures: Failures) -> None:
    """Raises PolicyError (EVALUATION_INCOMPLETE) that names the evaluations whose figures lack samples."""
    if failures:
        told = "; ".join(f"{name}: {error.message}" for name, error in failures.items())
        raise PolicyError(
            f"not all samples are in these figures: {told}",
            reason="EVALUATION_INCOMPLETE",
            evaluations=",".join(failures),
        )


async def rescore_policy(recipe: Recipe) -> dict[tuple[str, str], list[SampleRecord]]:
    """What `evaluate_policy` gives, from the trajectories that it kept and under the recipe's reward as it is."""
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.evaluation.rescore import rescore
    from vigorl_lib.rollout.wiring import connect_reward
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    dataset, limit = recipe.dataset, recipe.evaluation.limit or None
    examples = read_dataset(storage, ImageStore(storage), dataset.name, dataset.split, limit, with_images=False)
    cells = {}
    async with connect_reward(recipe.services) as reward:
        for mode in recipe.evaluation.modes:
            prefix = RunLayout(storage, recipe.run_id).evaluation(recipe.policy, mode)
            cells[recipe.policy, mode] = await rescore(examples, reward, recipe.reward, storage=storage, prefix=prefix)
    return cells


async def evaluate_policy(
    recipe: Recipe,
    shard: Shard = ALL,
    task_for: Callable[[str], TaskConfig] | None = None,
    *,
    failures: Failures | None = None,
) -> dict[tuple[str, str], list[SampleRecord]]:
    """Sample records by (policy, mode), made by the service at services.evaluation, else in this process.

    `task_for` says how each of the evaluation's modes is asked, instead of the recipe's task in that mode. What a
    killed call recorded is not asked again. With `failures`, an evaluation of which samples failed is told there, its
    cell has the others, and the next one is done; else it raises PolicyError (EVALUATION_INCOMPLETE).
    """
    measure = _by_service if recipe.services.evaluation else _in_process
    cells = {}
    for mode in recipe.evaluation.modes:
        asked = recipe.task.model_copy(update={"mode": mode, "prompt": ""}) if task_for is None else task_for(mode)
        task = asked.model_copy(update={"temperature": recipe.evaluation.temperature})
        answered: list[SampleRecord] = []
        with Progress(f"evaluate: {recipe.policy}, {mode}") as progress:

            def show(
                now: EvaluationProgress, progress: Progress = progress, answered: list[SampleRecord] = answered
            ) -> None:
                progress(now.done, now.total, failed=now.failed, resumed=now.resumed)
                answered += [now.record] if now.record is not None else []

            try:
                cells[recipe.policy, mode] = await measure(recipe, shard, task, show)
            except PolicyError as error:
                if failures is None or error.reason != "EVALUATION_INCOMPLETE":
                    raise
                failures[f"{recipe.run_id}/{recipe.policy}/{mode}"] = error
                cells[recipe.policy, mode] = sorted(answered, key=lambda record: (record.example_id, record.sample))
    return cells


async def _in_process(recipe: Recipe, shard: Shard, task: TaskConfig, show: OnSample) -> list[SampleRecord]:
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.evaluation.run import evaluate as measure
    from vigorl_lib.policy.cached import CachedPolicy
    from vigorl_lib.rollout.step import Stepper
    from vigorl_lib.rollout.wiring import connect
    from vigorl_lib.search.pacing import PacedPolicy
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    dataset, limit = recipe.dataset, recipe.evaluation.limit or None
    examples = read_dataset(storage, ImageStore(storage), dataset.name, dataset.split, limit, with_images=False)
    async with connect(recipe.services, recipe.policy) as wired:
        paced = PacedPolicy(wired.policy)
        policy = CachedPolicy(paced, storage) if recipe.evaluation.cache_answers else paced
        return await measure(
            examples,
            Stepper(policy, wired.environment, task, load_image=ImageStore(storage).get),
            wired.reward,
            recipe.reward,
            storage=storage,
            prefix=RunLayout(storage, recipe.run_id).evaluation(recipe.policy, task.prompt_name),
            seed=recipe.seed,
            max_in_flight=recipe.evaluation.max_in_flight,
            keep_trajectories=recipe.evaluation.keep_trajectories,
            samples=recipe.evaluation.samples,
            dataset=f"{dataset.name}/{dataset.split}",
            shard=shard,
            on_sample=show,
        )


async def _by_service(recipe: Recipe, shard: Shard, task: TaskConfig, show: OnSample) -> list[SampleRecord]:
    from vigorl_lib.evaluation.client import EvaluationClient
    from vigorl_lib.rpc.channels import Connections

    records = []
    connections = Connections(recipe.services.client)
    client = EvaluationClient(recipe.services.evaluation, connections=connections)
    try:
        steps = client.evaluate(
            run_id=recipe.run_id,
            dataset=recipe.dataset.name,
            split=recipe.dataset.split,
            limit=recipe.evaluation.limit,
            policy=recipe.policy,
            task=task,
            reward=recipe.reward,
            seed=recipe.seed,
            keep_trajectories=recipe.evaluation.keep_trajectories,
            samples=recipe.evaluation.samples,
            cache_answers=recipe.evaluation.cache_answers,
            shard_index=shard.index,
            shard_count=shard.count,
        )
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, EvaluationProgress):
                    show(step)
                    records += [step.record] if step.record is not None else []
    finally:
        await connections.close()
    return records
