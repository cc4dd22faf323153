"""`vigorl annotation`: a page for people to mark cited points on, and how far they agree."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vigorl_lib.errors import DataError

if TYPE_CHECKING:
    from vigorl_lib.evaluation.annotation import Agreement
    from vigorl_lib.evaluation.behaviours import Mean


@click.group()
def annotation() -> None:
    """People mark whether cited points are right and helpful: the page, and how far they agree."""


@annotation.command()
@click.option("--count", default=80, show_default=True, help="Trajectories on the page.")
@click.option("--seed", default=0, show_default=True, help="Of which trajectories are chosen, and their order.")
@click.option("--run-id", required=True, help="The run whose evaluations kept trajectories.")
@click.option("--root", required=True, help="Storage root: a folder or s3://bucket/prefix.")
def page(root: str, run_id: str, count: int, seed: int) -> None:
    """Write runs/<run id>/evaluation/annotation.html, of the trajectories that evaluations kept."""
    from vigorl_lib.report.annotation_page import choose, render_annotation_page
    from vigorl_lib.report.evaluation import gather
    from vigorl_lib.storage.base import open_storage
    from vigorl_lib.storage.images import ImageStore
    from vigorl_lib.storage.layout import RunLayout

    storage = open_storage(root)
    gathered = gather(storage, run_id)
    items = [
        (gathered.examples[cell.dataset][trajectory.example_id], trajectory)
        for cell in gathered.cells
        for trajectory in cell.kept
        if trajectory.example_id in gathered.examples[cell.dataset]
    ]
    chosen = choose(items, count, seed)
    if not chosen:
        raise DataError(
            f"run {run_id} kept no trajectory that points at something; evaluate with "
            "--set evaluation.keep_trajectories=N",
            reason="TRAJECTORIES_MISSING",
        )
    key = f"{RunLayout(storage, run_id).root}/evaluation/annotation.html"
    storage.write(key, render_annotation_page(chosen, ImageStore(storage).load).encode())
    click.echo(f"{storage.uri}/{key}")


@annotation.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def agreement(files: tuple[Path, ...], as_json: bool) -> None:
    """What the annotators of the saved FILES say together, and how far they agree."""
    from vigorl_lib.evaluation.annotation import agree, read_annotation

    found = agree([read_annotation(file.read_text(encoding="utf-8"), file.name) for file in files])
    click.echo(json.dumps(_plain(found), indent=2) if as_json else _told(found))


def _plain(found: Agreement) -> dict[str, Any]:
    values = asdict(found) | {
        "cohen": [
            {"annotators": list(pair), "kappa": _known(kappa), "places": n} for pair, (kappa, n) in found.cohen.items()
        ]
    }
    return {name: _known(value) if isinstance(value, float) else value for name, value in values.items()}


def _told(found: Agreement) -> str:
    right = found.right
    fleiss = "not every place was judged by as many" if found.fleiss is None else _number(found.fleiss)
    lines = [
        f"annotators       {', '.join(found.annotators)}",
        f"places marked    {found.places}",
        f"right            {100 * right.value:.1f} % [{100 * right.low:.1f}, {100 * right.high:.1f}] "
        f"of {right.n} judgements",
        f"helpful (1 to 5) {_mean(found.helpful)}; if right {_mean(found.helpful_if_right)}, "
        f"if wrong {_mean(found.helpful_if_wrong)}",
        f"Krippendorff's alpha: right {_number(found.alpha_right)}, helpful (ordinal) {_number(found.alpha_helpful)}",
        f"Fleiss' kappa, right: {fleiss}",
    ]
    lines += [
        f"Cohen's kappa, right: {' and '.join(pair)} {_number(kappa)} over {n} places"
        for pair, (kappa, n) in found.cohen.items()
    ]
    return "\n".join(lines)


def _mean(mean: Mean) -> str:
    return f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" if mean.n else "-"


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
