"""What the commands share: recipe options, dry runs, and opening a run's storage."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from vigorl_lib.config import load
from vigorl_lib.recipes.schema import RECIPES, Recipe
from vigorl_lib.rollout.contexts import as_overrides, contexts_path, read_contexts
from vigorl_lib.rpc.loop import run_loop
from vigorl_lib.search.shards import (
    COUNT_VARIABLE,
    INDEX_VARIABLE,
    Shard,
    parse_shard,
    shard_from_environment,
)

T = TypeVar("T")


def recipe_options(
    default: str, *, calls_services: bool = False, check: Callable[[Recipe], None] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options `--recipe --set --root --run-id --dry-run`; the command gets the resolved `recipe`.

    With `--dry-run` the resolved recipe is printed and the command does not run; `check` may then say more of it, or
    refuse it. A command that calls services has `--context`, too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @click.option("--recipe", "recipe_name", default=default, show_default=True, help="Name or YAML file.")
        @click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. sft.steps=10."
        )
        @click.option("--root", help="Storage root: a folder or s3://bucket/prefix.")
        @click.option("--run-id", help="Name of the run; the same name continues it.")
        @(context_option if calls_services else _unchanged)
        @click.option("--dry-run", is_flag=True, help="Check and print the resolved recipe, then stop.")
        @functools.wraps(command)
        def wrapped(
            recipe_name: str,
            overrides: tuple[str, ...],
            root: str | None,
            run_id: str | None,
            dry_run: bool,
            context: str | None = None,
            **rest: Any,
        ) -> None:
            recipe = resolve(recipe_name, overrides, root=root, run_id=run_id, context=context)
            if dry_run:
                click.echo(json.dumps(recipe.model_dump(mode="json"), indent=2))
                if check is not None:
                    check(recipe)
                return
            command(recipe=recipe, **rest)

        return wrapped

    return decorate


def shard_option(command: Callable[..., None]) -> Callable[..., None]:
    """Option `--shard`; the command gets a `Shard`. Without it an Indexed Job's environment decides."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> Shard:
        return shard_from_environment(os.environ) if value is None else parse_shard(value)

    told = f"Only this part of the examples, e.g. 0/4.  [default: ${INDEX_VARIABLE}/${COUNT_VARIABLE}, or all]"
    return click.option("--shard", metavar="INDEX/COUNT", callback=read, help=told)(command)


def context_option(command: Callable[..., None]) -> Callable[..., None]:
    """Option `--context`, for `resolve`."""
    told = "Services of this context (`vigorl context list`) instead of the recipe's."
    return click.option("--context", metavar="NAME", help=told)(command)


def _unchanged(command: Callable[..., None]) -> Callable[..., None]:
    return command


def resolve(
    name: str,
    overrides: tuple[str, ...],
    *,
    root: str | None = None,
    run_id: str | None = None,
    context: str | None = None,
) -> Recipe:
    """Load a recipe; `--root` and `--run-id` are overrides of the keys of the same name, a context of `services`.

    Overrides of the user's own are stronger than the context.
    """
    extra = [f"{key}={json.dumps(value)}" for key, value in (("root", root), ("run_id", run_id)) if value is not None]
    services = () if context is None else as_overrides(read_contexts(contexts_path()).get(context))
    return load(Recipe, name, folder=RECIPES, overrides=(*services, *overrides, *extra))


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels the work and what is committed stays."""
    return run_loop(work)
