"""`vigorl report`: write report.html of a run again."""

from __future__ import annotations

import click

from vigorl_lib.cli.common import recipe_options
from vigorl_lib.recipes.schema import Recipe


@click.command()
@recipe_options(default="quickstart")
def report(recipe: Recipe) -> None:
    """Write report.html of a run."""
    from vigorl_lib.cli.quickstart import POLICIES
    from vigorl_lib.jobs.stages import read_stages
    from vigorl_lib.report.run import write_report
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(recipe.root)
    layout = RunLayout(storage, recipe.run_id)
    write_report(storage, recipe, policies=POLICIES, stages=read_stages(storage, layout.root))
    click.echo(f"{storage.uri}/{layout.report}")
