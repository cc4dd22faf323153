"""`vigorl report`: write report.html of a run again, of its evaluations, or the page of one search tree."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.errors import DataError
from vigorl_lib.recipes.schema import Recipe

if TYPE_CHECKING:
    from vigorl_lib.search.tree import Tree
    from vigorl_lib.storage.base import Storage
    from vigorl_lib.storage.layout import RunLayout


class _RunFirst(click.Group):
    """`vigorl report` alone, with or without options, writes the report of the run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunFirst)
def report() -> None:
    """Write report.html of a run (`run`, also where nothing is named), or the page of one search tree."""


@report.command()
@recipe_options(default="quickstart")
def run(recipe: Recipe) -> None:
    """Write report.html of a run."""
    from vigorl_lib.cli.quickstart import POLICIES
    from vigorl_lib.jobs.stages import read_stages
    from vigorl_lib.report.run import write_report
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    layout = RunLayout(storage, recipe.run_id)
    write_report(storage, recipe, policies=POLICIES, stages=read_stages(storage, layout.root))
    click.echo(f"{storage.uri}/{layout.report}")


@report.command()
@click.option("--example", help="Id of the example whose tree is shown; without it, the largest tree.")
@recipe_options(default="quickstart-search")
def tree(recipe: Recipe, example: str | None) -> None:
    """Write a page to walk through one search tree of a run."""
    from vigorl_lib.storage.base import open_storage

    storage = open_storage(recipe.root)
    click.echo(f"{storage.uri}/{write_tree_page(storage, recipe, example)}")


@report.command()
@click.option(
    "--samples", type=click.IntRange(min=0), help="Questions of each outcome.  [default: 12, less for many data sets]"
)
@click.option("--run-id", required=True, help="The run; with those below it, such as those of benchmarks.")
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
def evaluation(root: str, run_id: str, samples: int | None) -> None:
    """Write report.html, results.json, results.md and samples.jsonl of the evaluations of a run."""
    from vigorl_lib.report.evaluation import write_evaluation_report
    from vigorl_lib.storage.base import open_storage

    storage = open_storage(root)
    click.echo(f"{storage.uri}/{write_evaluation_report(storage, run_id, samples=samples)}")


@report.command()
@click.option("--step", required=True, type=click.IntRange(min=0), help="Training step, from 0.")
@click.option("--stage", default="grpo", show_default=True, help="Name of the stage within the run.")
@click.option("--groups", default=16, show_default=True, type=click.IntRange(min=1), help="Groups shown at most.")
@recipe_options(default="quickstart-grpo")
def rollouts(recipe: Recipe, step: int, stage: str, groups: int) -> None:
    """Write a page of the rollouts of one GRPO step."""
    from vigorl_lib.report.rollouts_page import render_rollouts
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout
    from vigorl_lib.training.groups import read_step

    storage = open_storage(recipe.root)
    layout = RunLayout(storage, f"{recipe.run_id}/{stage}")
    found = read_step(layout, step)
    if found is None:
        raise DataError(
            f"step {step} of {layout.root} in {storage.uri} is not committed; its rollouts are not done, or the run "
            "is another one",
            reason="STEP_MISSING",
        )
    key = f"{layout.root}/rollouts/{step:06d}.html"
    page = render_rollouts(found, recipe.grpo, ImageStore(storage).load, run_id=layout.run_id, groups=groups)
    storage.write(key, page.encode())
    click.echo(f"{storage.uri}/{key}")


def write_tree_page(storage: Storage, recipe: Recipe, example_id: str | None) -> str:
    """Write `trees/<example>.html` of the recipe's run and return its key.

    Raises DataError (TREE_MISSING, EXAMPLE_MISSING) and what reading trees and images may raise.
    """
    from dataclasses import replace

    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.report.tree_page import render_tree_page
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    layout, images = RunLayout(storage, recipe.run_id), ImageStore(storage)
    found = _find(layout, example_id)
    dataset = recipe.dataset
    examples = read_dataset(storage, images, dataset.name, dataset.split, with_images=False)
    example = next((one for one in examples if one.example_id == found.example_id), None)
    if example is None:
        raise DataError(
            f"example {found.example_id} is not in {dataset.name}/{dataset.split}; name the split that was searched, "
            "e.g. --set dataset.split=validation",
            reason="EXAMPLE_MISSING",
        )
    example = replace(example, images=tuple(map(images.load, example.images)))
    # Ids may hold characters that a file name may not.
    key = f"{layout.root}/trees/{re.sub(r'[^A-Za-z0-9._-]', '_', found.example_id)}.html"
    storage.write(key, render_tree_page(found, example, images.load).encode())
    return key


def _find(layout: RunLayout, example_id: str | None) -> Tree:
    from vigorl_lib.search.archive import read_run

    largest: Tree | None = None
    for one in read_run(layout):
        if not one.nodes or (example_id is not None and one.example_id != example_id):
            continue
        # Single paths are trees of a root alone.
        if largest is None or (len(one.nodes), len(one.rollouts)) > (len(largest.nodes), len(largest.rollouts)):
            largest = one
    if largest is None:
        wanted = f"of example {example_id} " if example_id is not None else ""
        raise DataError(
            f"no tree {wanted}in {layout.root} of {layout.storage.uri}; search it first", reason="TREE_MISSING"
        )
    return largest
