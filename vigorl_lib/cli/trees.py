"""`vigorl trees`: the trees of a run as one file, and those of the published code in and out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.domain.example import Example
from vigorl_lib.errors import DataError
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.layout import RunLayout


@click.group()
def trees() -> None:
    """Searched trees: merge shards, import from and export to the published code's JSON."""


@trees.command()
@recipe_options(default="quickstart-search")
def merge(recipe: Recipe) -> None:
    """Write search/trees.jsonl.zst from the journals of all shards of a run, and print the counts."""
    from vigorl_lib.search.archive import archive_run

    counts = archive_run(_layout(recipe))
    _tell({"trees": counts.trees, "duplicates": counts.duplicates, "unfinished": counts.unfinished})


@trees.command(name="import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--policy", "policy", default="reference", show_default=True, help="Policy that the trees came from.")
@recipe_options(default="quickstart-search")
def import_(recipe: Recipe, files: tuple[Path, ...], policy: str) -> None:
    """Bring in trees (JSONL files or folders of them) as a run, for examples of the recipe's data set."""
    from vigorl_lib.search.archive import import_run

    told: Counter[str] = Counter()
    counts = import_run(_layout(recipe), _imported(_lines(files), _examples(recipe), policy, told))
    _tell({"trees": counts.trees, "duplicates": counts.duplicates, "not carried": dict(sorted(told.items()))})


@trees.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@recipe_options(default="quickstart-search")
def export(recipe: Recipe, folder: Path) -> None:
    """Write a run's finished trees as the published code's JSON, one file a tree, as its builder reads them.

    The path of an image is its key below the storage root.
    """
    from vigorl_lib.search.archive import read_run
    from vigorl_lib.search.reference_trees import export_tree
    from vigorl_lib.storage.images import image_key

    examples, told, written = _examples(recipe), Counter[str](), 0
    folder.mkdir(parents=True, exist_ok=True)
    for tree in read_run(_layout(recipe)):
        example = examples.get(tree.example_id)
        if not tree.end or tree.error or example is None:
            told["trees of unknown examples" if example is None else "failed or unfinished trees"] += 1
            continue
        line, lost = export_tree(tree, example, image=image_key(example.images[0].sha256))
        told += lost
        name = f"rollouts_{recipe.run_id}_worker0_ckpt{written}.jsonl"
        (folder / name).write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
        written += 1
    _tell({"trees": written, "not carried": dict(sorted(told.items()))})


def _imported(
    lines: Iterator[tuple[str, bytes]], examples: dict[str, Example], policy: str, told: Counter[str]
) -> Iterator[Tree]:
    from vigorl_lib.data.fields import parse_line
    from vigorl_lib.search.reference_trees import import_tree

    for where, line in lines:
        values = parse_line(line, where).values
        example = examples.get(str(values.get("id")))
        if "error" in values or example is None:
            told["lines that tell an error" if "error" in values else "trees of unknown examples"] += 1
            continue
        tree, lost = import_tree(values, example, policy=policy, where=where)
        told += lost
        yield tree


def _lines(files: tuple[Path, ...]) -> Iterator[tuple[str, bytes]]:
    from vigorl_lib.data.fields import numbered_lines

    found = [path for file in files for path in (sorted(file.glob("*.jsonl")) if file.is_dir() else [file])]
    if not found:
        raise DataError(f"no .jsonl file in {', '.join(map(str, files))}", reason="TREES_MISSING")
    for path in found:
        yield from numbered_lines(path.read_bytes(), path.name)


def _examples(recipe: Recipe) -> dict[str, Example]:
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore

    storage, dataset = open_storage(recipe.root), recipe.dataset
    found = read_dataset(storage, ImageStore(storage), dataset.name, dataset.split, with_images=False)
    return {example.example_id: example for example in found}


def _layout(recipe: Recipe) -> RunLayout:
    from vigorl_lib.storage.base import open_storage

    return RunLayout(open_storage(recipe.root), recipe.run_id)


def _tell(figures: dict[str, object]) -> None:
    click.echo(json.dumps(figures, indent=2, ensure_ascii=False))
