"""`vigorl data`: make and look at data sets. Files in and out, and downloads, are modules beside this one."""

from __future__ import annotations

from pathlib import Path

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.cli.data_download import download
from vigorl_lib.cli.data_files import check, export, import_
from vigorl_lib.cli.progress import Progress
from vigorl_lib.recipes.schema import Recipe


@click.group()
def data() -> None:
    """Make, download, import, check and export data sets."""


for _command in (download, import_, check, export):
    data.add_command(_command)


@data.command()
@recipe_options(default="quickstart")
def synthetic(recipe: Recipe) -> None:
    """Write synthetic visual-search scenes and captions into storage."""
    make_synthetic_data(recipe)


def make_synthetic_data(recipe: Recipe) -> dict[str, float]:
    """The `synthetic` section's data set; returns how much there is of each part."""
    from vigorl_lib.data.datasets_synthetic import make_synthetic
    from vigorl_lib.prompts import load_prompt
    from vigorl_lib.storage.base import open_storage

    wanted = recipe.synthetic
    counts = {"train": wanted.train, "validation": wanted.validation, "test": wanted.test}
    with Progress("synthetic scenes") as progress:
        make_synthetic(
            open_storage(recipe.root),
            recipe.dataset.name,
            counts,
            recipe.seed,
            captions=wanted.captions,
            caption_prompt=load_prompt(recipe.task.family, "caption").text,
            on_progress=progress,
        )
    return {**{name: float(count) for name, count in counts.items()}, "captions": float(wanted.captions)}


@data.command()
@click.option("--root", required=True, help="Storage root.")
@click.option("--name", required=True, help="Name of the data set.")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", default=5, show_default=True)
def show(root: str, name: str, split: str, limit: int) -> None:
    """Print the first records of a split."""
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.data.exporters import answer_text
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore

    storage = open_storage(root)
    for example in read_dataset(storage, ImageStore(storage), name, split, limit, with_images=False):
        size = example.images[0].size
        tags = " ".join(f"{key}={value}" for key, value in example.tags.items())
        click.echo(
            f"{example.example_id}  {size.width}x{size.height}  {example.question}  → {answer_text(example)}  {tags}"
        )


@data.command(name="tiny-model")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def tiny_model(folder: Path, seed: int) -> None:
    """Write the tiny, randomly initialised Qwen2.5-VL."""
    from vigorl_lib.models.tiny import build_tiny

    build_tiny(folder, seed=seed)
    click.echo(str(folder))
