"""`vigorl search`: tree search over a data set with one policy, journalled and resumable."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.common import recipe_options, run_async, shard_option
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError, PolicyError, RemoteError
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.rpc.config import ClientConfig
from vigorl_lib.search.shards import ALL, Shard

if TYPE_CHECKING:
    from vigorl_lib.search.coordinator import SearchProgress


@click.command()
@shard_option
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="Start so many search services on this machine and deal the examples among them.",
)
@recipe_options(default="quickstart-search", calls_services=True)
def search(recipe: Recipe, shard: Shard, processes: int | None) -> None:
    """Tree search over a data set with a policy, by the search service at services.search."""
    if processes is None:
        run_async(search_dataset(recipe, shard))
        return
    if shard != ALL:
        raise ConfigError("--processes deals all examples; give either it or --shard", reason="SHARD_INVALID")
    search_in_processes(recipe, processes)


async def search_dataset(recipe: Recipe, shard: Shard = ALL) -> dict[str, float]:
    """Search the recipe's data set, or a shard of it; called again, it continues. Returns rates and counts.

    Raises ConfigError (SEARCH_UNKNOWN), PolicyError (SEARCH_INCOMPLETE).
    """
    if not recipe.services.search:
        raise ConfigError(
            "services.search has no address; start `vigorl up` and add --set services.search=HOST:PORT",
            reason="SEARCH_UNKNOWN",
        )
    return await _search(recipe, {shard: recipe.services.search}, recipe.services.client)


def search_in_processes(recipe: Recipe, count: int) -> dict[str, float]:
    """Search the recipe's data set by `count` search services of our own, a shard each, and end them.

    They reach policy, environment and reward as the recipe's `services` says. Raises PolicyError
    (SEARCH_INCOMPLETE), ProcessError.
    """
    from vigorl_lib.jobs.local import ProcessError, Services

    targets = recipe.services.model_dump(mode="json", exclude={"search", "evaluation"})
    logs = Path(tempfile.mkdtemp(prefix="vigorl-search-"))
    click.echo(f"logs of the search services: {logs}", err=True)
    with Services(logs) as services:
        names = {Shard(index, count): f"search-{index}" for index in range(count)}
        for name in names.values():
            services.launch(name, "search", {"root": recipe.root, "services": targets})
        addresses = {shard: services.wait_ready(name) for shard, name in names.items()}
        try:
            # Not the recipe's client settings: these services are on this machine and speak without TLS.
            return run_async(_search(recipe, addresses, ClientConfig()))
        except RemoteError as error:
            # A service that was killed is the cause; that nobody answers, only how it showed.
            for process in services.processes.values():
                if (status := process.poll()) is not None:
                    raise ProcessError(
                        f"{process.name} ended with status {status}; what was journalled is kept, run the same command "
                        f"again{process.last_words()}",
                        reason="SERVICE_FAILED",
                    ) from error
            raise


async def _search(recipe: Recipe, targets: Mapping[Shard, str], client: ClientConfig) -> dict[str, float]:
    """Search every shard at its target, all at once."""
    from vigorl_lib.rpc.channels import Connections
    from vigorl_lib.search.client import SearchClient

    standing: dict[Shard, SearchProgress] = {}
    connections = Connections(client)

    async def follow(shard: Shard, target: str, progress: Progress) -> None:
        updates = SearchClient(target, connections=connections).search_dataset(
            run_id=recipe.run_id,
            dataset=recipe.dataset.name,
            split=recipe.dataset.split,
            policy=recipe.policy,
            task=recipe.task,
            search=recipe.search,
            reward=recipe.reward,
            seed=recipe.seed,
            shard_index=shard.index,
            shard_count=shard.count,
        )
        async with aclosing(updates):
            async for update in updates:
                standing[shard] = update
                _show(progress, standing)

    with Progress(f"search: {recipe.policy}") as progress:
        tasks = [asyncio.create_task(follow(shard, target, progress)) for shard, target in targets.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await connections.close()
    return _result(standing)


def _show(progress: Progress, standing: Mapping[Shard, SearchProgress]) -> None:
    done, total, failed, solved = _sums(standing)
    resumed = sum(update.resumed for update in standing.values())
    progress(done, total, failed=failed, resumed=resumed, note=f"{solved} solved{_causes(standing)}")


def _result(standing: Mapping[Shard, SearchProgress]) -> dict[str, float]:
    done, total, failed, solved = _sums(standing)
    if failed:
        raise PolicyError(
            f"{failed} of {total} trees failed ({_causes(standing).removeprefix(', ')}), the others are kept; the "
            "search service's log says more. Run the same command again to go on with those that can",
            reason="SEARCH_INCOMPLETE",
            failed=failed,
        )
    return {"trees": float(total), "solved": solved / max(1, done), "failed": float(failed)}


def _sums(standing: Mapping[Shard, SearchProgress]) -> tuple[int, int, int, int]:
    """Trees done, of how many, failed, solved."""
    updates = standing.values()
    return (
        sum(update.done for update in updates),
        sum(update.total for update in updates),
        sum(update.failed for update in updates),
        sum(update.solved for update in updates),
    )


def _causes(standing: Mapping[Shard, SearchProgress]) -> str:
    causes: Counter[str] = Counter()
    for update in standing.values():
        causes.update(update.failures)
    return "".join(f", {count}x {reason}" for reason, count in sorted(causes.items()))
