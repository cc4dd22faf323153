"""What the commands share: recipe options, dry runs, and opening a run's storage."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from vigorl_lib.config import load
from vigorl_lib.recipes.schema import RECIPES, Recipe

T = TypeVar("T")


def recipe_options(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options `--recipe --set --root --run-id --dry-run`; the command gets the resolved `recipe`.

    With `--dry-run` the resolved recipe is printed and the command does not run.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--recipe", "recipe_name", default=default, show_default=True, help="Name or YAML file.")
        @click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. sft.steps=10."
        )
        @click.option("--root", help="Storage root: a folder or s3://bucket/prefix.")
        @click.option("--run-id", help="Name of the run; the same name continues it.")
        @click.option("--dry-run", is_flag=True, help="Check and print the resolved recipe, then stop.")
        @functools.wraps(command)
        def wrapped(
            recipe_name: str,
            overrides: tuple[str, ...],
            root: str | None,
            run_id: str | None,
            dry_run: bool,
            **rest: Any,
        ) -> None:
            recipe = resolve(recipe_name, overrides, root=root, run_id=run_id)
            if dry_run:
                click.echo(json.dumps(recipe.model_dump(mode="json"), indent=2))
                return
            command(recipe=recipe, **rest)

        return wrapped

    return decorate


def resolve(name: str, overrides: tuple[str, ...], *, root: str | None = None, run_id: str | None = None) -> Recipe:
    """Load a recipe; `--root` and `--run-id` are overrides of the keys of the same name."""
    extra = [f"{key}={json.dumps(value)}" for key, value in (("root", root), ("run_id", run_id)) if value is not None]
    return load(Recipe, name, folder=RECIPES, overrides=(*overrides, *extra))


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels the work and what is committed stays."""
    return asyncio.run(work)
