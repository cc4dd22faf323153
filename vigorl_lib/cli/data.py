"""`vigorl data`: make the synthetic data set, import one's own, make the tiny model."""

from __future__ import annotations

from pathlib import Path

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.cli.progress import Progress
from vigorl_lib.recipes.schema import Recipe


@click.group()
def data() -> None:
    """Make, import and look at data sets."""


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


@data.command(name="import")
@click.argument("records", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
@click.option("--name", required=True, help="Name of the data set.")
@click.option("--split", default="train", show_default=True)
def import_(records: Path, images: Path, root: str, name: str, split: str) -> None:
    """Bring in questions (JSONL) and their image files. The format is in docs/data.md."""
    from vigorl_lib.data.importers import import_folder
    from vigorl_lib.storage.base import open_storage

    examples = import_folder(open_storage(root), records, images, name, split)
    click.echo(f"{len(examples)} examples in {root}, data set {name}, split {split}")


@data.command()
@click.option("--root", required=True, help="Storage root.")
@click.option("--name", required=True, help="Name of the data set.")
@click.option("--split", default="train", show_default=True)
@click.option("--limit", default=5, show_default=True)
def show(root: str, name: str, split: str, limit: int) -> None:
    """Print the first records of a split."""
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore

    storage = open_storage(root)
    for example in read_dataset(storage, ImageStore(storage), name, split, limit, with_images=False):
        size = example.images[0].size
        tags = " ".join(f"{key}={value}" for key, value in example.tags.items())
        click.echo(
            f"{example.example_id}  {size.width}x{size.height}  {example.question}  → {example.truth.answer}  {tags}"
        )


@data.command(name="tiny-model")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def tiny_model(folder: Path, seed: int) -> None:
    """Write the tiny, randomly initialised Qwen2.5-VL."""
    from vigorl_lib.models.tiny import build_tiny

    build_tiny(folder, seed=seed)
    click.echo(str(folder))
