"""`vigorl solve`: one question about one image, turn by turn as it happens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from vigorl_lib.cli.common import context_option, resolve, run_async
from vigorl_lib.cli.context import client_options, laid_over
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.rollout.contexts import as_overrides, contexts_path, read_contexts
from vigorl_lib.rollout.wiring import ServicesConfig


@click.command()
@click.option("--image", "image_path", required=True, type=click.Path(path_type=Path), help="The picture.")
@click.option("--question", required=True, help="What to find out.")
@click.option("--policy", "model", type=click.Path(path_type=Path), help="Checkpoint folder to open in this process.")
@context_option
@client_options
@click.option("--recipe", "recipe_name", default="quickstart", show_default=True, help="How to ask (task, zoom).")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the picture with its points here (PNG)."
)
def solve(
    image_path: Path,
    question: str,
    model: Path | None,
    context: str | None,
    reach: dict[str, Any],
    recipe_name: str,
    overrides: tuple[str, ...],
    out: Path | None,
) -> None:
    """Ask one question about one image and watch the turns.

    A model of this machine answers (--policy), or the search service of an installation: that of --target, of
    --context, or of the context in use.
    """
    if model is not None and (context is not None or reach):
        raise click.UsageError("--policy asks a model in this process; leave out --context, --target and their like")
    if not image_path.is_file():
        raise click.UsageError(f"--image: no file {image_path}")
    services = () if model is not None else as_overrides(_reached(context, reach))
    recipe = resolve(recipe_name, ("task.temperature=0", *services, *overrides))
    target = None if model is not None else recipe.services.search
    run_async(_solve(image_path.read_bytes(), question, model, target, recipe, out))


def _reached(context: str | None, reach: dict[str, Any]) -> ServicesConfig:
    """Options are laid over the context that is named; a target alone takes nothing from the context in use."""
    contexts = read_contexts(contexts_path())
    alone = context is None and "search" in reach
    if context is None and not alone and not contexts.current:
        raise click.UsageError("give --policy FOLDER, --target HOST:PORT, or --context NAME (`vigorl context set`)")
    services = laid_over(ServicesConfig() if alone else contexts.get(context), reach)
    if not services.search:
        raise click.UsageError(
            f"context {context or contexts.current!r} has no search service; give --target HOST:PORT"
        )
    return services


async def _solve(
    data: bytes, question: str, model: Path | None, target: str | None, recipe: Recipe, out: Path | None
) -> None:
    from vigorl_lib.domain.example import Example, GroundTruth
    from vigorl_lib.domain.trajectory import Prefix, TurnRecord
    from vigorl_lib.domain.wire import THINK_CLOSE
    from vigorl_lib.storage.images import probe

    image = probe(data)
    example = Example("question", question, (image,), GroundTruth(""))

    def show(record: TurnRecord) -> None:
        click.echo(click.style(record.turn.thought, dim=True))
        click.echo(record.text.rpartition(THINK_CLOSE)[2].strip() or record.text)
        if record.crop is not None:
            box = record.crop.window
            click.echo(
                click.style(f"  → crop {box.x0:g},{box.y0:g} – {box.x1:g},{box.y1:g} of the original", fg="cyan")
            )
        if record.invalid is not None:
            click.echo(click.style(f"  → {record.invalid}: {record.detail}", fg="yellow"))

    def on_turn(prefix: Prefix) -> None:
        if prefix.record is not None:
            show(prefix.record)

    if target is not None:
        from vigorl_lib.rpc.channels import Connections
        from vigorl_lib.search.client import SearchClient

        connections = Connections(recipe.services.client)
        client = SearchClient(target, connections=connections)
        try:
            async for event in client.solve(image, question, policy=recipe.policy, task=recipe.task, seed=recipe.seed):
                if isinstance(event, TurnRecord):
                    show(event)
                else:
                    trajectory = event
        finally:
            await connections.close()
    else:
        from vigorl_lib.policy.config import PolicyConfig
        from vigorl_lib.policy.engines import open_policy
        from vigorl_lib.rollout.run import solve as run
        from vigorl_lib.rollout.step import Stepper
        from vigorl_lib.rollout.wiring import connect
        from vigorl_lib.storage.base import open_storage
        from vigorl_lib.storage.images import ImageStore

        policy = open_policy(PolicyConfig(name="local", model=str(model)))
        async with connect(recipe.services, policy) as wired:
            images = ImageStore(open_storage(recipe.root))
            stepper = Stepper(wired.policy, wired.environment, recipe.task, load_image=images.get)
            trajectory = await run(
                stepper, example, trajectory_id="solve", seed_path=(recipe.seed, "solve"), on_turn=on_turn
            )
    answer = trajectory.answer or f"none ({trajectory.stop}{': ' + trajectory.error if trajectory.error else ''})"
    click.echo(click.style(f"answer: {answer}", bold=True))
    if out is not None:
        from vigorl_lib.report.draw import annotated

        await asyncio.to_thread(out.write_bytes, annotated(trajectory, image))
        click.echo(f"picture: {out}")
