"""`vigorl export`: a training checkpoint, or another trainer's shards, as a complete Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vigorl_lib.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("folder", type=_FOLDER)
@click.option("--root", help="Storage root.")
@click.option("--run-id", help="Run and stage, for example quickstart/sft.")
@click.option("--step", help="Step of the checkpoint, or `best`; the newest by default.")
@click.option("--fsdp", type=_FOLDER, help="Instead of a run: folder with model_world_size_W_rank_r.pt.")
@click.option("--base", help="Model that the shards belong to, folder or URI; by default FSDP/huggingface.")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), default="auto", show_default=True)
@click.option("--logprobs/--no-logprobs", default=True, show_default=True, help="Open the result and compare it.")
@click.option("--upload", metavar="URI", help="Then put it at hf://OWNER/NAME, private if it is made, or s3://….")
def export(
    folder: Path,
    root: str | None,
    run_id: str | None,
    step: str | None,
    fsdp: Path | None,
    base: str | None,
    dtype: Any,
    logprobs: bool,
    upload: str | None,
) -> None:
    """Write a checkpoint as a complete Hugging Face folder. Needs no GPU.

    FOLDER appears once all of it is written and read back. One shard of the result is in memory at a time; the
    comparison of log-probabilities opens the whole model, on the processor.
    """
    if fsdp is not None:
        from vigorl_lib.models.fsdp_shards import FsdpShards

        _write(FsdpShards(fsdp), base or str(fsdp / "huggingface"), folder, dtype, logprobs)
    elif root and run_id:
        from vigorl_lib.training.checkpoint import find_step, local_checkpoint, trained_weights

        layout = _layout(root, run_id)
        number = find_step(layout, step)
        with local_checkpoint(layout, number) as (saved, meta):
            click.echo(f"{run_id} at step {number}")
            _write(trained_weights(saved, meta), base or str(meta["init"]), folder, dtype, logprobs)
    else:
        raise ConfigError("expected --root and --run-id of a run, or --fsdp, found neither", reason="EXPORT_SOURCE")
    if upload:
        from vigorl_lib.models.publish import publish_model

        click.echo(publish_model(folder, upload))


def _layout(root: str, run_id: str) -> Any:
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.layout import RunLayout

    return RunLayout(open_storage(root), run_id)


def _write(weights: Mapping[str, Tensor], base: str, folder: Path, dtype: Any, logprobs: bool) -> None:
    from vigorl_lib.models.export import export_model

    done = export_model(weights, base, folder, dtype=dtype)
    size = f"{done.size_bytes / 1e6:,.1f} MB in {len(done.files)} files"
    click.echo(f"{folder}: {done.tensors} tensors, {size}, {done.changed} not the base's; read back equal")
    if logprobs:
        from vigorl_lib.models.export_check import check_logprobs

        click.echo(f"log-probabilities differ by {check_logprobs(folder, weights, base):.1e} at most")
