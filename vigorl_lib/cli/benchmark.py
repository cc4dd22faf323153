"""`vigorl benchmark`: list the paper's benchmarks and import their files; and what `vigorl eval --benchmark` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.common import run_async
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import DataError
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.search.shards import Shard

if TYPE_CHECKING:
    from vigorl_lib.cli.evaluate import Failures
    from vigorl_lib.evaluation.benchmarks.spec import Benchmark
    from vigorl_lib.evaluation.benchmarks.table import Results
    from vigorl_lib.evaluation.table import Cells
    from vigorl_lib.storage.base import Storage

EVERY = "all"


@click.group()
def benchmark() -> None:
    """The paper's benchmarks: list them, bring in their files."""


@benchmark.command(name="list")
def list_() -> None:
    """Names, splits with their numbers of questions, prompts, image limits, and where the files come from."""
    from vigorl_lib.evaluation.benchmarks import BENCHMARKS

    for one in BENCHMARKS.values():
        splits = ", ".join(f"{split} ({count})" if count else split for split, count in one.splits.items())
        click.echo(f"{one.name}: {one.title}")
        limit = f"stored at {one.max_side} px a side at most" if one.max_side else "stored as they are"
        click.echo(f"  splits: {splits}; prompts: {', '.join(one.prompts)}; metric: {one.metric}")
        click.echo(f"  images: {limit}, shown at {one.max_pixels} pixels at most (the policy's resize rule)")
        for source in dict.fromkeys(layout.source for layout in one.layouts):
            click.echo(f"  from {source}")


@benchmark.command(name="import")
@click.argument("name")
@click.argument("files", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
@click.option("--split", default="", help="Another split than the one that is measured.")
def import_(name: str, files: Path, root: str, split: str) -> None:
    """Bring the published files of benchmark NAME, anywhere below the folder FILES, into storage."""
    from vigorl_lib.evaluation.benchmarks import find_benchmark
    from vigorl_lib.storage.base import open_storage

    bring_in(open_storage(root), find_benchmark(name), files, split)


def bring_in(storage: Storage, one: Benchmark, files: Path, split: str = "") -> None:
    from vigorl_lib.evaluation.benchmarks.importing import import_benchmark

    split = split or one.split
    expected = one.splits.get(split, 0)
    with Progress(f"import: {one.name}, {split}") as progress:
        count = import_benchmark(storage, one, files, split, on_progress=lambda n: progress(n, max(n, expected)))
    told = f", of which the source has {expected}" if expected and expected != count else ""
    click.echo(f"{one.name}: {count} questions in {storage.uri}, split {split}{told}", err=True)


def show_benchmarks(
    recipe: Recipe, shard: Shard, name: str, files: Path | None, *, rescore: bool, as_json: bool
) -> None:
    """Measure and print the table.

    Raises what `evaluate_benchmarks` raises and, after the table, PolicyError (EVALUATION_INCOMPLETE) where it lacks
    samples.
    """
    from vigorl_lib.cli.evaluate import refuse_incomplete
    from vigorl_lib.evaluation.benchmarks.table import render_results, results_to_json

    failures: Failures = {}
    results = run_async(evaluate_benchmarks(recipe, shard, name, files, failures=failures, rescore=rescore))
    click.echo(json.dumps(results_to_json(results), indent=2) if as_json else render_results(results))
    refuse_incomplete(failures)


async def evaluate_benchmarks(
    recipe: Recipe,
    shard: Shard,
    name: str,
    files: Path | None,
    *,
    failures: Failures | None = None,
    rescore: bool = False,
) -> Results:
    """Cells by benchmark, for one benchmark or for all that are imported or whose files are in a folder of their name.

    Each is a run of its own below the recipe's, `<run id>/<benchmark>`; `failures` are those of `evaluate_policy`. With
    `rescore` kept trajectories are scored again and nobody is asked. Raises ConfigError (BENCHMARK_UNKNOWN,
    PROMPT_UNKNOWN), DataError (BENCHMARK_NOT_IMPORTED).
    """
    from vigorl_lib.evaluation.benchmarks import BENCHMARKS, find_benchmark
    from vigorl_lib.evaluation.benchmarks.importing import is_imported
    from vigorl_lib.storage.base import open_storage

    storage = open_storage(recipe.root)
    chosen = list(BENCHMARKS.values()) if name == EVERY else [find_benchmark(name)]
    results: dict[str, Cells] = {}
    absent = []
    for one in chosen:
        folder = None if files is None else _folder(files, one.name, alone=name != EVERY)
        if folder is not None and not is_imported(storage, one):
            bring_in(storage, one, folder)
        if is_imported(storage, one):
            results[one.name] = await _cells(recipe, one, shard, failures, rescore=rescore, every=name == EVERY)
        else:
            absent.append(one.name)
    if not any(results.values()):
        raise DataError(
            f"{recipe.root} holds no questions of {', '.join(absent)}; bring them in with "
            "`vigorl benchmark import NAME FILES --root ROOT`, or name their folder with --files",
            reason="BENCHMARK_NOT_IMPORTED",
        )
    if absent:
        click.echo(f"not imported, so not measured: {', '.join(absent)}", err=True)
    return results


async def _cells(
    recipe: Recipe, one: Benchmark, shard: Shard, failures: Failures | None, *, rescore: bool, every: bool
) -> Cells:
    from vigorl_lib.cli.evaluate import evaluate_policy, rescore_policy

    wanted = recipe.evaluation.modes or one.prompts[:1]
    # Not every benchmark has every prompt: of all of them, those that have it are asked with it.
    prompts = [prompt for prompt in wanted if prompt in one.prompts] if every else wanted
    update = {
        "run_id": f"{recipe.run_id}/{one.name}",
        "dataset": recipe.dataset.model_copy(update={"name": one.name, "split": one.split}),
        "evaluation": recipe.evaluation.model_copy(update={"modes": tuple(prompts)}),
    }
    asked = recipe.model_copy(update=update)
    if rescore:
        return await rescore_policy(asked)
    return await evaluate_policy(asked, shard, lambda prompt: one.task(prompt, recipe.task), failures=failures)


def _folder(files: Path, name: str, *, alone: bool) -> Path | None:
    """The benchmark's own folder below `files`; the folder itself where it is the only one that is asked for."""
    if (files / name).is_dir():
        return files / name
    return files if alone else None


def default_recipe(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Callback of `--benchmark`: benchmarks have a recipe of their own unless another one is named."""
    if value is not None:
        context.default_map = {**(context.default_map or {}), "recipe_name": "benchmarks"}
    return value
