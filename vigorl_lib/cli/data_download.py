"""`vigorl data download`: the paper's public data, from the Hub into a folder or a bucket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError

if TYPE_CHECKING:
    from vigorl_lib.data.download import OnBytes, Plan

MB = 1_000_000


@click.command()
@click.argument("names", nargs=-1)
@click.option("--to", help="Folder or s3://bucket/prefix; each name gets a folder of its own in it.")
@click.option("--revision", default="", metavar="REVISION", help="Branch, tag or commit; the newest by default.")
@click.option("--files", multiple=True, metavar="PATTERN", help="Only these files of the repository.")
@click.option(
    "--scratch", type=click.Path(file_okay=False, path_type=Path), help="Local folder for archives on their way."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be downloaded, and how large it is.")
@click.option("--list", "list_", is_flag=True, help="Print what NAMES may be.")
def download(
    names: tuple[str, ...],
    to: str | None,
    revision: str,
    files: tuple[str, ...],
    scratch: Path | None,
    dry_run: bool,
    list_: bool,
) -> None:
    """Download the released bundles or benchmarks NAMES; archives are unpacked, and a broken-off download goes on.

    HF_ENDPOINT names a mirror, HF_TOKEN is sent to repositories that ask for one.
    """
    from vigorl_lib.data.download import download as bring
    from vigorl_lib.data.download import only, plan_download
    from vigorl_lib.data.hub import Hub
    from vigorl_lib.data.sources import find_source

    if list_ or not names:
        _list()
        return
    sources = [only(find_source(name), files) for name in names]
    if to is None:
        raise ConfigError("name the folder or bucket to download to with --to", reason="TARGET_MISSING")
    hub = Hub()
    for source in sources:
        place = f"{to.rstrip('/')}/{source.name}"
        plan = plan_download(source, place, hub, revision=revision)
        _show(plan, place)
        if dry_run:
            continue
        with Progress(f"download: {source.name}, MB") as progress:
            bring(plan, hub, scratch or _scratch(place), _in_mb(progress))
        click.echo(
            f"{source.name}: {len(plan.files)} files in {place}; next:\n  {source.next.replace('FOLDER', place)}"
        )


def _in_mb(progress: Progress) -> OnBytes:
    def told(what: str, done: int, total: int) -> None:
        progress(done // MB, max(1, total // MB), note=what)

    return told


def _list() -> None:
    from vigorl_lib.data.sources import data_sources

    for source in data_sources().values():
        size = f", {source.size_bytes / 1e9:.1f} GB" if source.size_bytes else ""
        licence = f", licence {source.licence}" if source.licence else ""
        click.echo(f"{source.name}: {source.title}")
        click.echo(f"  {source.repository}: {', '.join(source.files)}{size}{licence}; split {source.split}")


def _show(plan: Plan, place: str) -> None:
    from vigorl_lib.data.download import is_archive

    commit, source = plan.commit, plan.source
    licence = commit.licence or source.licence or "not stated; see the card"
    click.echo(f"{source.name}: {commit.repository} at {commit.sha[:12]}, licence {licence}")
    for file in plan.files:
        state = "there already" if file.path in plan.done else "to be unpacked" if is_archive(file) else ""
        proof = "" if file.digest else "size alone is checked"
        notes = ", ".join(note for note in (state, proof) if note)
        click.echo(f"  {file.size / 1e6:12,.1f} MB  {file.path}{f'  ({notes})' if notes else ''}")
    waiting = sum(file.size for file in plan.waiting)
    click.echo(f"  {plan.size_bytes / 1e6:12,.1f} MB in all, {waiting / 1e6:,.1f} MB to download into {place}")


def _scratch(place: str) -> Path:
    """Beside the files in a folder; in the user's cache for a bucket."""
    if "://" not in place:
        return Path(place) / ".scratch"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vigorl" / "download"
