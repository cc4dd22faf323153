"""`vigorl linearize`: from the trees of a run to chains to train on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.common import recipe_options, run_async
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.recipes.schema import Recipe

if TYPE_CHECKING:
    from vigorl_lib.domain.example import Example
    from vigorl_lib.domain.trajectory import Trajectory
    from vigorl_lib.search.chain_statistics import Statistics
    from vigorl_lib.search.linearize import Chains, ChainTask
    from vigorl_lib.storage.base import Storage

FORMATS = ("sharegpt", "trl")


@click.command()
@click.option("--out", default="chains", show_default=True, help="Name of the chains within the run.")
@click.option(
    "--export", "formats", default="", metavar="FORMATS", help=f"Also write them for others: {','.join(FORMATS)}."
)
@recipe_options(default="quickstart-search")
def linearize(recipe: Recipe, out: str, formats: str) -> None:
    """Turn searched trees into chains to train on, and print what was made."""
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    click.echo(json.dumps(linearize_run(recipe, out, wanted), indent=2))


def linearize_run(recipe: Recipe, out: str, formats: Sequence[str] = ()) -> Statistics:
    """Write `chains/<out>-train.parquet`, `-validation.parquet`, `<out>.json` and `<out>.html` of the recipe's run.

    Each of `formats` is written as the folder `chains/<out>-<format>`. Raises ConfigError (EXPORT_UNKNOWN),
    DataError (TREES_MISSING).
    """
    from vigorl_lib.data.chains import write_chains
    from vigorl_lib.report.chains_page import render_chains
    from vigorl_lib.search.archive import read_run
    from vigorl_lib.search.linearize import linearize as make_chains
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    if unknown := set(formats) - set(FORMATS):
        raise ConfigError(
            f"--export: expected some of {', '.join(FORMATS)}, found {', '.join(sorted(unknown))}",
            reason="EXPORT_UNKNOWN",
        )
    storage = open_storage(recipe.root)
    layout = RunLayout(storage, recipe.run_id)
    trees = [tree for tree in read_run(layout) if tree.end]
    if not trees:
        raise DataError(
            f"no finished tree under {layout.searches} in {storage.uri}; run `vigorl search` first or name another run",
            reason="TREES_MISSING",
        )
    chains = make_chains(trees, recipe.linearize, _task(recipe, storage), seed=recipe.seed)
    if recipe.linearize.mode == "reference" and recipe.linearize.crops_afterwards:
        chains = _with_crops(chains, recipe, storage)
    splits: dict[str, Sequence[Trajectory]] = {"train": chains.train, "validation": chains.validation}
    for split, part in splits.items():
        write_chains(storage, f"{layout.chains}/{out}-{split}.parquet", part, split=split)
    statistics = chains.statistics
    for name in formats:
        statistics |= _export(name, storage, f"{layout.chains}/{out}-{name}", splits)
    storage.write(f"{layout.chains}/{out}.json", json.dumps(statistics, indent=2).encode())
    page = render_chains(
        [*chains.train, *chains.validation],
        statistics,
        ImageStore(storage).load,
        name=out,
        run_id=recipe.run_id,
        seed=recipe.seed,
    )
    storage.write(f"{layout.chains}/{out}.html", page.encode())
    click.echo(f"samples: {storage.uri}/{layout.chains}/{out}.html", err=True)
    return statistics


def _task(recipe: Recipe, storage: Storage) -> ChainTask:
    from vigorl_lib.prompts import load_prompt
    from vigorl_lib.search.linearize import ChainTask

    family, config = recipe.task.family, recipe.linearize
    # The search's own prompt asks each question for another number of steps: no student is asked so.
    multi_turn = config.multi_turn_prompt or (recipe.task.prompt_name if recipe.task.min_steps_to else "")
    return ChainTask(
        single_turn=load_prompt(family, config.single_turn_prompt),
        multi_turn=load_prompt(family, multi_turn) if multi_turn else None,
        rules=recipe.task.zoom,
        examples=_examples(recipe, storage) if config.evidence_hit else {},
    )


def _examples(recipe: Recipe, storage: Storage) -> dict[str, Example]:
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.storage.images import ImageStore

    dataset = recipe.dataset
    found = read_dataset(storage, ImageStore(storage), dataset.name, dataset.split, with_images=False)
    return {example.example_id: example for example in found}


def _with_crops(chains: Chains, recipe: Recipe, storage: Storage) -> Chains:
    """The chains and, behind them, their multi-turn versions."""
    from vigorl_lib.environment.zoom import ZoomEnvironment
    from vigorl_lib.prompts import load_prompt
    from vigorl_lib.search.linearize import with_statistics
    from vigorl_lib.search.reference_crops import with_crops
    from vigorl_lib.storage.images import ImageStore

    prompt = load_prompt(recipe.task.family, recipe.linearize.multi_turn_prompt or "multi_turn")

    async def cut(part: list[Trajectory]) -> list[Trajectory]:
        environment = ZoomEnvironment()
        try:
            images = ImageStore(storage)
            return await with_crops(part, prompt, recipe.task.zoom, environment, images, recipe.seed)
        finally:
            await environment.close()

    train, validation = ([*part, *run_async(cut(part))] for part in (chains.train, chains.validation))
    return with_statistics(train, validation, chains.statistics)


def _export(name: str, storage: Storage, prefix: str, splits: dict[str, Sequence[Trajectory]]) -> Statistics:
    from vigorl_lib.data.sharegpt import export_sharegpt
    from vigorl_lib.data.trl import export_trl
    from vigorl_lib.storage.images import ImageStore

    write = {"sharegpt": export_sharegpt, "trl": export_trl}[name]
    made = write(storage, ImageStore(storage), prefix, splits)
    return {f"exported_{name}": made.written, f"not_exported_{name}": made.left_out}
