"""`vigorl search`: tree search over a data set with one policy, journalled and resumable."""

from __future__ import annotations

import click

from vigorl_lib.cli.common import recipe_options, run_async
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.recipes.schema import Recipe


@click.command()
@recipe_options(default="quickstart-search")
def search(recipe: Recipe) -> None:
    """Tree search over a data set with a policy, by the search service at services.search."""
    run_async(search_dataset(recipe))


async def search_dataset(recipe: Recipe) -> dict[str, float]:
    """Search the recipe's data set; called again, it continues. Returns rates and counts."""
    from vigorl_lib.rpc.channels import Connections
    from vigorl_lib.search.client import SearchClient

    if not recipe.services.search:
        raise ConfigError(
            "services.search has no address; start `vigorl up` and add --set services.search=HOST:PORT",
            reason="SEARCH_UNKNOWN",
        )
    done = total = failed = solved = 0
    connections = Connections(recipe.services.client)
    client = SearchClient(recipe.services.search, connections=connections)
    try:
        with Progress(f"search: {recipe.policy}") as progress:
            async for update in client.search_dataset(
                run_id=recipe.run_id,
                dataset=recipe.dataset.name,
                split=recipe.dataset.split,
                policy=recipe.policy,
                task=recipe.task,
                search=recipe.search,
                reward=recipe.reward,
                seed=recipe.seed,
            ):
                done, total, failed, solved = update.done, update.total, update.failed, update.solved
                progress(done, total, failed=failed, resumed=update.resumed, note=f"{solved} solved")
    finally:
        await connections.close()
    if failed:
        raise PolicyError(
            f"{failed} of {total} trees failed, the others are kept; the search service's log says why. "
            "Run the same command again to go on with those that can",
            reason="SEARCH_INCOMPLETE",
            failed=failed,
        )
    return {"trees": float(total), "solved": solved / max(1, done), "failed": float(failed)}
