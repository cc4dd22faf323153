"""`vigorl linearize`: from the trees of a run to chains to train on."""

from __future__ import annotations

import json

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.recipes.schema import Recipe


@click.command()
@click.option("--out", default="chains", show_default=True, help="Name of the chains within the run.")
@recipe_options(default="quickstart-search")
def linearize(recipe: Recipe, out: str) -> None:
    """Turn searched trees into chains to train on, and print what was made."""
    click.echo(json.dumps(linearize_run(recipe, out), indent=2))


def linearize_run(recipe: Recipe, out: str) -> dict[str, float]:
    """Write `chains/<out>-train.parquet`, `-validation.parquet` and `<out>.json` of the recipe's run."""
    from vigorl_lib.data.chains import write_chains
    from vigorl_lib.prompts import load_prompt
    from vigorl_lib.search.journal import read_trees
    from vigorl_lib.search.linearize import ChainPrompts
    from vigorl_lib.search.linearize import linearize as make_chains
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    layout = RunLayout(storage, recipe.run_id)
    trees = [tree for tree in read_trees(storage, layout.search()) if tree.end and not tree.error]
    family, config = recipe.task.family, recipe.linearize
    prompts = ChainPrompts(
        single_turn=load_prompt(family, config.single_turn_prompt),
        multi_turn=load_prompt(family, config.multi_turn_prompt) if config.multi_turn_prompt else None,
    )
    chains = make_chains(trees, config, prompts, seed=recipe.seed)
    for split, part in (("train", chains.train), ("validation", chains.validation)):
        write_chains(storage, f"{layout.chains}/{out}-{split}.parquet", part, split=split)
    storage.write(f"{layout.chains}/{out}.json", json.dumps(chains.statistics, indent=2).encode())
    return chains.statistics
