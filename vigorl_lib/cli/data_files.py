"""`vigorl data import`, `check` and `export`: questions and chains between files and storage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vigorl_lib.cli.progress import Progress
from vigorl_lib.domain.example import AnswerKind
from vigorl_lib.errors import ConfigError

if TYPE_CHECKING:
    from vigorl_lib.data.checks import Checked
    from vigorl_lib.data.importers import Source
    from vigorl_lib.storage.base import Storage

FORMATS = ("auto", "jsonl", "parquet", "table", "hf-folder", "a", "b", "c", "sharegpt")
SHOWN_PROBLEMS = 200
_PATH = click.Path(path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])


def source_options(function: _F) -> _F:
    """Options that say how files are read."""
    for option in reversed(
        (
            click.option("--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True),
            click.option(
                "--images", type=_FOLDER, help="Folder that image paths are relative to; else the file's own."
            ),
            click.option("--field", "fields", multiple=True, metavar="OURS=THEIRS", help="Their column for our field."),
            click.option("--tag", "tags", multiple=True, metavar="COLUMN", help="A column that becomes a tag."),
            click.option(
                "--kind", type=click.Choice([kind.value for kind in AnswerKind]), help="How to match answers."
            ),
        )
    ):
        function = option(function)
    return function


@click.command(name="import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
@click.option("--name", required=True, help="Name of the data set.")
@click.option("--split", default="train", show_default=True)
@source_options
def import_(source: Path, root: str, name: str, split: str, **how: Any) -> None:
    """Bring in questions and images from the file or folder SOURCE, or chains. The formats are in docs/data.md."""
    from vigorl_lib.data.formats import CHAIN_FORMATS
    from vigorl_lib.data.importers import import_chains, import_examples
    from vigorl_lib.storage.base import open_storage

    files = _source(source, **how)
    with Progress(f"import: {name}, {split}") as progress:
        if files.format in CHAIN_FORMATS:
            chains, found = import_chains(open_storage(root), files, name, split, on_progress=progress)
            told = f"{chains} chains (datasets/{name}/{split}.parquet) about "
        else:
            found = import_examples(open_storage(root), files, name, split, on_progress=progress)
            told = ""
    skipped = f", {found.skipped} rows without an image skipped" if found.skipped else ""
    click.echo(
        f"{told}{len(found.examples)} questions, {found.images} images in {root}, data set {name}, split {split} "
        f"(read as {files.format}{skipped})"
    )
    if left_out := _left_out(files, split):
        click.echo(f"columns that became nothing: {', '.join(left_out)} (--tag and --field take them)", err=True)


@click.command()
@click.argument("what")
@click.option(
    "--root", help="Storage root: WHAT is a data set in it. Without, WHAT is a file or folder to be imported."
)
@click.option("--split", default="train", show_default=True, help="Of files: the split that they are to become.")
@click.option("--sheet", type=_PATH, default=Path("contact-sheet.html"), show_default=True, help="Page of samples.")
@click.option("--samples", default=24, show_default=True, help="How many are on it; 0 writes none.")
@source_options
def check(what: str, root: str | None, split: str, sheet: Path, samples: int, **how: Any) -> None:
    """Say what is wrong with a data set, line by line, and write a page of samples with their boxes.

    Exits with 1 where something is wrong.
    """
    from vigorl_lib.data.checks import check_dataset, check_source
    from vigorl_lib.storage.base import open_storage

    with Progress(f"check: {what}") as progress:
        if root is not None:
            checked = check_dataset(open_storage(root), what, samples=samples, on_progress=progress)
        else:
            checked = check_source(_source(Path(what), **how), split, samples=samples, on_progress=progress)
    _tell(checked)
    if checked.samples:
        from vigorl_lib.report.contact_sheet import render_contact_sheet

        lead = f"{len(checked.samples)} of {checked.images} images, each with one of its questions."
        sheet.write_text(render_contact_sheet(Path(what).name, lead, checked.samples), encoding="utf-8")
        click.echo(f"samples with their boxes: {sheet}")
    if checked.problems:
        sys.exit(1)


@click.command()
@click.argument("name")
@click.option("--root", required=True, help="Storage root.")
@click.option("--split", default="train", show_default=True, help="Split, or name of the chains.")
@click.option(
    "--format", "format_", type=click.Choice(("jsonl", "parquet", "a", "b", "c", "sharegpt", "trl")), required=True
)
@click.option("--to", required=True, help="Folder or s3://bucket/prefix to write to.")
def export(name: str, root: str, split: str, format_: str, to: str) -> None:
    """Write questions (jsonl, parquet, a, b) or chains (c, sharegpt, trl) of the data set NAME for other tools."""
    from vigorl_lib.data.datasets import read_dataset
    from vigorl_lib.data.exporters import export_examples
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore

    storage, target = open_storage(root), open_storage(to)
    if format_ in ("c", "sharegpt", "trl"):
        click.echo(_export_chains(storage, name, split, format_, target))
        return
    examples = read_dataset(storage, ImageStore(storage), name, split, with_images=False)
    with Progress(f"export: {name}, {split}") as progress:
        report = export_examples(
            storage, examples, format_, target, split, on_progress=lambda done: progress(done, len(examples))
        )
    click.echo(f"{report.written} questions of {name}, split {split}, in {to} as {format_}")
    for reason, count in report.left_out.items():
        click.echo(f"left out, because the format cannot hold it: {reason} ({count})", err=True)
    for field, count in (+report.lost).items():
        click.echo(f"not told, because the format has no place for it: {field} ({count})", err=True)


def _export_chains(storage: Storage, name: str, chains_name: str, format_: str, target: Storage) -> str:
    from vigorl_lib.data.datasets import find_manifest, read_dataset, read_dataset_chains
    from vigorl_lib.data.exporters import answer_text, export_reference_chains
    from vigorl_lib.data.sharegpt import export_sharegpt
    from vigorl_lib.data.trl import export_trl
    from vigorl_lib.storage.images import ImageStore

    chains = read_dataset_chains(storage, name, chains_name)
    images = ImageStore(storage)
    if format_ != "c":
        write = export_sharegpt if format_ == "sharegpt" else export_trl
        exported = write(target, images, format_, {chains_name: chains})
        return f"{exported.written} chains in {target.uri}/{format_}, {exported.left_out} left out"
    manifest = find_manifest(storage, name)
    splits = manifest.splits if manifest is not None else {}
    examples = [one for split in splits for one in read_dataset(storage, images, name, split, with_images=False)]
    answers = {example.example_id: answer_text(example) for example in examples}
    written, left_out = export_reference_chains(storage, chains, answers, target, chains_name)
    return f"{len(chains) - left_out} chains in {target.uri}: {', '.join(written)}; {left_out} left out"


def _source(
    path: Path, *, format_: str, images: Path | None, fields: tuple[str, ...], tags: tuple[str, ...], kind: str | None
) -> Source:
    from vigorl_lib.data.formats import USER_FIELDS, Columns, detect
    from vigorl_lib.data.importers import Source

    names = dict(field.split("=", 1) for field in fields if "=" in field)
    if len(names) != len(fields) or (unknown := sorted(set(names) - set(USER_FIELDS))):
        wrong = ", ".join(field for field in fields if "=" not in field) or ", ".join(unknown)
        raise ConfigError(
            f"--field: expected OURS=THEIRS, each once, with OURS out of {', '.join(USER_FIELDS)}; found {wrong}",
            reason="FIELD_INVALID",
        )
    columns = Columns(names, tags, AnswerKind(kind) if kind else None)
    if format_ == "auto":
        format_ = detect(path, columns)
    return Source(path, format_, images, columns)


def _left_out(source: Source, split: str) -> list[str]:
    """Columns of a table that an import did not take, by its first row."""
    from vigorl_lib.data.fields import Fields
    from vigorl_lib.data.formats import CHAIN_FORMATS, CONVERSATIONS, RL

    if source.format in (*CHAIN_FORMATS, CONVERSATIONS, RL):
        return []
    rows = source.tables(split)[0].rows
    first = next((row for row in rows if isinstance(row, Fields)), None)
    return [] if first is None else source.columns.left_out(first)


def _tell(checked: Checked) -> None:
    for problem in checked.problems[:SHOWN_PROBLEMS]:
        click.echo(problem.message)
    if len(checked.problems) > SHOWN_PROBLEMS:
        click.echo(f"… and {len(checked.problems) - SHOWN_PROBLEMS} more")
    for remark in checked.remarks:
        click.echo(f"remark: {remark}")
    reasons = ", ".join(f"{reason} {count}" for reason, count in checked.reasons.most_common())
    skipped = f", {checked.skipped} rows without an image skipped" if checked.skipped else ""
    verdict = f"{len(checked.problems)} problems ({reasons})" if checked.problems else "nothing wrong"
    chains = f", {checked.chains} chains" if checked.chains else ""
    click.echo(f"{checked.examples} questions, {checked.images} images{chains}{skipped}: {verdict}")
