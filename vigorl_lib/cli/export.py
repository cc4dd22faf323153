"""`vigorl export`: a training checkpoint as a complete Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("checkpoint")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def export(checkpoint: str, folder: Path) -> None:
    """Write CHECKPOINT (a folder or URI below a run's checkpoints/) to FOLDER in Hugging Face format. Needs no GPU."""
    from vigorl_lib.training.checkpoint import export_hf

    export_hf(checkpoint, folder)
    click.echo(str(folder))
