"""`vigorl export`: a training checkpoint as a complete Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--root", required=True, help="Storage root.")
@click.option("--run-id", required=True, help="Run and stage, for example quickstart/sft.")
@click.option("--step", type=int, help="Step of the checkpoint; the newest by default.")
def export(folder: Path, root: str, run_id: str, step: int | None) -> None:
    """Write a checkpoint as a complete Hugging Face folder. Needs no GPU."""
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout
    from vigorl_lib.training.checkpoint import export_hf

    found = export_hf(RunLayout(open_storage(root), run_id), folder, step=step)
    click.echo(f"{folder}: {run_id} at step {found}")
