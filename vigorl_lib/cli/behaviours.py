"""`vigorl behaviours`: regions explored, grounded subgoals, verification and backtracking in kept trajectories."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vigorl_lib.cli.common import recipe_options, run_async
from vigorl_lib.cli.progress import Progress
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.recipes.schema import Recipe

if TYPE_CHECKING:
    from vigorl_lib.domain.trajectory import Trajectory
    from vigorl_lib.evaluation.behaviours import Mean
    from vigorl_lib.report.evaluation import Gathered, Measured
    from vigorl_lib.reward.config import JudgeConfig
    from vigorl_lib.storage.base import Storage

Rows = dict[tuple[str, str, str, str], Mapping[str, "Mean"]]
"""Figures by data set, policy, prompt, and who counted."""
Chosen = Sequence[tuple["Measured", Sequence["Trajectory"]]]

RULES = "rules"


@click.command()
@click.option("--all", "everything", is_flag=True, help="All kept trajectories; without it, those that end right.")
@click.option("--judge", "ask", is_flag=True, help="Ask the judge at services.judge, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@recipe_options(default="quickstart-evaluate", calls_services=True)
def behaviours(recipe: Recipe, everything: bool, ask: bool, as_json: bool) -> None:
    """Count behaviours in the trajectories that the evaluations of a run kept: by rules and, if asked, by a judge."""
    from vigorl_lib.report.evaluation import gather
    from vigorl_lib.storage.base import open_storage

    judge = recipe.services.judge
    if ask and judge is None:
        raise ConfigError(
            "services.judge says of no judge; add --set services.judge.target=HOST:PORT, or leave --judge out",
            reason="JUDGE_MISSING",
        )
    storage = open_storage(recipe.root)
    gathered = gather(storage, recipe.run_id)
    right = "" if everything else " that ends right"
    chosen = [(cell, [t for t in cell.kept if everything or t.outcome == "correct"]) for cell in gathered.cells]
    if not any(kept for _, kept in chosen):
        raise DataError(
            f"run {recipe.run_id} kept no trajectory{right}; evaluate with --set evaluation.keep_trajectories=N, or "
            "count --all",
            reason="TRAJECTORIES_MISSING",
        )
    rows = _by_rules(gathered, chosen)
    if ask and judge is not None:
        rows |= run_async(_by_judge(storage, gathered, chosen, judge))
    click.echo(_json(rows) if as_json else _table(rows))


def _by_rules(gathered: Gathered, chosen: Chosen) -> Rows:
    from vigorl_lib.evaluation.behaviours import behaviours_of, summarize_behaviours

    return {
        (cell.dataset, cell.policy, cell.prompt, RULES): summarize_behaviours(
            {t.trajectory_id: behaviours_of(t, gathered.examples[cell.dataset].get(t.example_id)) for t in kept}
        )
        for cell, kept in chosen
    }


async def _by_judge(storage: Storage, gathered: Gathered, chosen: Chosen, config: JudgeConfig) -> Rows:
    """Counts are recorded below the evaluation's records; what is recorded is not asked again."""
    from vigorl_lib.evaluation.behaviour_judge import BehaviourJudge, count_all, counts_prefix
    from vigorl_lib.evaluation.behaviours import summarize_counts

    judge = BehaviourJudge.open(config)
    rows: Rows = {}
    try:
        for cell, kept in chosen:
            examples = gathered.examples[cell.dataset]
            asked = [(examples[t.example_id].question, t) for t in kept if t.example_id in examples]
            prefix = counts_prefix(cell.prefix)
            with Progress(f"judge: {cell.policy}, {cell.prompt}") as progress:
                counts = await count_all(asked, judge, storage=storage, prefix=prefix, on_progress=progress)
            by_id = {trajectory.trajectory_id: one for (_, trajectory), one in zip(asked, counts, strict=True)}
            rows[cell.dataset, cell.policy, cell.prompt, await judge.identity()] = summarize_counts(by_id)
    finally:
        await judge.close()
    return rows


def _json(rows: Rows) -> str:
    return json.dumps(
        [
            {"dataset": d, "policy": p, "prompt": m, "counted_by": who, "means": {n: asdict(v) for n, v in row.items()}}
            for (d, p, m, who), row in rows.items()
        ],
        indent=2,
    )


def _table(rows: Rows) -> str:
    """Means a trajectory with 95 % intervals; `-` where nobody counted, or nothing could be counted."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["data set", "policy", "prompt", "counted by", "n", *(name.replace("_", " ") for name in names)]]
    for key, row in rows.items():
        counted = str(next(iter(row.values())).n)
        lines.append([*key, counted, *(_mean(row[name]) if name in row else "-" for name in names)])
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _mean(mean: Mean) -> str:
    return f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]" if mean.n else "-"
