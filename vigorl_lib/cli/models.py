"""`vigorl models`: checkpoints between storage, the Hub and this machine's disk, proved by their digest."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def models() -> None:
    """Move checkpoints, by digest: fetch, upload, wait, digest."""


@models.command()
@click.argument("source")
@click.argument("folder", type=_FOLDER)
@click.option("--digest", default="", metavar="sha256:HEX", help="What the model must have.")
@click.option("--revision", default="", metavar="COMMIT", help="Full commit of a repository of the Hub.")
def fetch(source: str, folder: Path, digest: str, revision: str) -> None:
    """Fill FOLDER from SOURCE: a folder, s3://bucket/prefix or hf://OWNER/NAME.

    FOLDER appears once all of it is there and its digest is right. A killed fetch, started again, goes on.
    """
    from vigorl_lib.models.fetch import fetch_model

    model = fetch_model(source, folder, digest=digest, revision=revision, on_file=click.echo)
    click.echo(f"{folder}: {len(model.files)} files, {model.size_bytes / 1e6:,.1f} MB, {model.digest}")


@models.command()
@click.argument("folder", type=_FOLDER)
@click.option("--digest", required=True, metavar="sha256:HEX", help="What the model must have.")
@click.option("--timeout-s", default=3600.0, show_default=True, help="Give up after this many seconds.")
def wait(folder: Path, digest: str, timeout_s: float) -> None:
    """Wait until another process has fetched a model into FOLDER."""
    from vigorl_lib.models.fetch import wait_for_model

    model = wait_for_model(folder, digest, timeout_s)
    click.echo(f"{folder}: {len(model.files)} files, {model.digest}")


@models.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("uri")
def upload(folder: Path, uri: str) -> None:
    """Put the model in FOLDER at URI, s3://bucket/prefix, where policies load it from; prints its digest."""
    from vigorl_lib.models.fetch import upload_model

    click.echo(upload_model(folder, uri))


@models.command()
@click.argument("source")
def digest(source: str) -> None:
    """Print the digest of a model in a folder or at s3://bucket/prefix."""
    from vigorl_lib.models.fetch import digest_of

    click.echo(digest_of(source))
