"""`report.html`, `results.json`, `results.md` and `samples.jsonl` of the evaluations of a run, from its records.

Asks nobody and measures nothing: run it while shards are at work and it shows what they have. All evaluations below a
run are gathered, so a run over several benchmarks is one page. This module gathers; `evaluation_page` draws.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import DataError
from vigorl_lib.evaluation.behaviour_judge import counts_prefix, read_counts
from vigorl_lib.evaluation.behaviours import (
    Behaviour,
    Behaviours,
    behaviours_of,
    summarize_behaviours,
    summarize_counts,
)
from vigorl_lib.evaluation.benchmarks import BENCHMARKS
from vigorl_lib.evaluation.benchmarks.paper import PaperRow, paper_rows
from vigorl_lib.evaluation.benchmarks.table import categories, mean_accuracy
from vigorl_lib.evaluation.metrics import (
    SampleRecord,
    accuracy,
    by_question,
    cut_off,
    not_parseable,
    of_several,
    split_by_tags,
    summarize,
)
from vigorl_lib.evaluation.run import SETTINGS, read_kept_trajectories, read_records, read_settings
from vigorl_lib.evaluation.table import APART, percent
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

SAMPLES, FEWEST = 12, 2
"""Questions of each outcome on a page of one data set, and of however many."""

FIGURES = ("accuracy", *APART)


@dataclass(frozen=True, slots=True)
class Measured:
    """One policy asked in one way about one data set; `dataset` is `name/split`, `prefix` where its records are."""

    prefix: str
    dataset: str
    policy: str
    prompt: str
    settings: dict[str, Any]
    records: Sequence[SampleRecord]
    questions: int
    """Questions of the split, of which fewer may have been asked; 0 where it is not known which split it was."""
    kept: Sequence[Trajectory]
    """Trajectories that were kept, in the order of the records."""
    behaviours: Mapping[str, Behaviours]
    """Of the kept trajectories, by their id."""
    judged: Mapping[str, Mapping[str, Mapping[Behaviour, int]]]
    """What judges counted, by who they are, of those trajectories that they were shown, by id."""

    @property
    def tags(self) -> dict[str, dict[str, list[SampleRecord]]]:
        """Records by tag and value, of tags that tell groups of questions apart; of a benchmark its own tags."""
        benchmark = BENCHMARKS.get(self.dataset.partition("/")[0])
        if benchmark is not None:
            return {name: part for name, part in categories(benchmark, self.records).items() if len(part) > 1}
        return split_by_tags(self.records)

    @property
    def count(self) -> str:
        """Number of samples and, where not all questions of the split have one, of questions."""
        samples, asked = len(self.records), len(by_question(self.records))
        if asked >= self.questions:
            return str(samples)
        return (
            f"{asked} of {self.questions}" if asked == samples else f"{samples} ({asked} of {self.questions} questions)"
        )

    @property
    def judges(self) -> tuple[str, ...]:
        """Who read the answers, where rules could not."""
        return tuple(sorted({record.judged_by for record in self.records if record.judged_by}))

    @property
    def paper(self) -> tuple[PaperRow, ...]:
        """The paper's numbers for this benchmark and prompt, if it is one of its benchmarks."""
        return paper_rows(self.dataset.partition("/")[0], self.prompt)


@dataclass(frozen=True, slots=True)
class Gathered:
    """All evaluations of a run; `examples` are those of the kept trajectories, by data set and id, without bytes."""

    run_id: str
    cells: Sequence[Measured]
    examples: dict[str, dict[str, Example]]


def write_evaluation_report(storage: Storage, run_id: str, *, samples: int | None = None) -> str:
    """Write the four files under `runs/<run id>/evaluation/` and return the page's key.

    `samples` questions of each outcome and data set are shown; without it, as many as a page can well hold. Raises
    DataError (EVALUATION_MISSING) where nothing is recorded.
    """
    from vigorl_lib.report.evaluation_page import render_evaluation

    gathered = gather(storage, run_id)
    folder = f"{RunLayout(storage, run_id).root}/evaluation"
    storage.write(f"{folder}/results.json", json.dumps(to_json(gathered), indent=2).encode())
    storage.write(f"{folder}/results.md", to_markdown(gathered).encode())
    storage.write(f"{folder}/samples.jsonl", to_lines(gathered).encode())
    if samples is None:
        samples = max(FEWEST, SAMPLES // len({cell.dataset for cell in gathered.cells}))
    page = render_evaluation(gathered, ImageStore(storage).load, samples=samples)
    storage.write(f"{folder}/report.html", page.encode())
    return f"{folder}/report.html"


def gather(storage: Storage, run_id: str) -> Gathered:
    """Read every evaluation below a run. Raises DataError (EVALUATION_MISSING)."""
    root = RunLayout(storage, run_id).root
    keys = [key for key in storage.list(f"{root}/") if key.endswith(f"/{SETTINGS}") and "/evaluation/" in key]
    if not keys:
        raise DataError(
            f"{storage.uri}: run {run_id} has no evaluation; run `vigorl eval --run-id {run_id}` first",
            reason="EVALUATION_MISSING",
        )
    examples: dict[str, dict[str, Example]] = {}
    cells = []
    for key in keys:
        prefix = key.removesuffix(f"/{SETTINGS}")
        settings = read_settings(storage, prefix)
        dataset = settings["dataset"]
        if dataset not in examples:
            examples[dataset] = _examples(storage, dataset)
        cells.append(_measured(storage, prefix, settings, examples[dataset]))
    shown = {
        dataset: {t.example_id for cell in cells if cell.dataset == dataset for t in cell.kept} for dataset in examples
    }
    kept = {
        dataset: {name: example for name, example in known.items() if name in shown[dataset]}
        for dataset, known in examples.items()
    }
    return Gathered(run_id, sorted(cells, key=lambda cell: (cell.dataset, cell.policy)), kept)


def _examples(storage: Storage, dataset: str) -> dict[str, Example]:
    """By id; none where whoever measured did not say on what, so there is nothing to show but figures."""
    if not dataset:
        return {}
    name, _, split = dataset.partition("/")
    found = read_dataset(storage, ImageStore(storage), name, split, with_images=False)
    return {example.example_id: example for example in found}


def _measured(storage: Storage, prefix: str, settings: dict[str, Any], examples: dict[str, Example]) -> Measured:
    policy, prompt = prefix.rsplit("/", 2)[1:]
    records = read_records(storage, prefix)
    once = {trajectory.trajectory_id: trajectory for trajectory in reversed(read_kept_trajectories(storage, prefix))}
    kept = sorted(once.values(), key=lambda trajectory: trajectory.trajectory_id)
    counted = {one.trajectory_id: behaviours_of(one, examples.get(one.example_id)) for one in kept}
    judged = read_counts(storage, counts_prefix(prefix))
    dataset, questions = settings["dataset"], len(examples)
    return Measured(prefix, dataset, policy, prompt, settings, records, questions, kept, counted, judged)


def to_json(gathered: Gathered) -> list[dict[str, Any]]:
    """One object per cell, with every setting and figure."""
    return [
        {
            "dataset": cell.dataset,
            "policy": cell.policy,
            "prompt": cell.prompt,
            "settings": cell.settings,
            "questions": {"answered": len(by_question(cell.records)), "of": cell.questions or None},
            "accuracy": asdict(accuracy(cell.records)),
            "by_tag": {
                tag: {value: asdict(accuracy(part)) for value, part in parts.items()}
                for tag, parts in cell.tags.items()
            },
            "mean_by_tag": {tag: mean_accuracy(parts) for tag, parts in cell.tags.items()},
            "judges": list(cell.judges),
            "figures": {n: None if math.isnan(v) else round(v, 4) for n, v in summarize(cell.records).items()},
            "behaviours": {n: asdict(m) for n, m in summarize_behaviours(cell.behaviours).items()},
            "judged": {who: {n: asdict(m) for n, m in summarize_counts(c).items()} for who, c in cell.judged.items()},
            "paper": [asdict(row) for row in cell.paper],
        }
        for cell in gathered.cells
    ]


def to_lines(gathered: Gathered) -> str:
    """Every sample of every cell as one line of JSON, for tables of other tools; trajectories are on the page."""
    lines = (
        {"dataset": cell.dataset, "policy": cell.policy, "prompt": cell.prompt, **asdict(record)}
        for cell in gathered.cells
        for record in cell.records
    )
    return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)


def to_markdown(gathered: Gathered) -> str:
    """The results with the paper's numbers, each tag's table, and the settings, for a README or an issue."""
    parts = [f"# Evaluation of {gathered.run_id}"]
    for dataset in dict.fromkeys(cell.dataset for cell in gathered.cells):
        cells = [cell for cell in gathered.cells if cell.dataset == dataset]
        several = list(dict.fromkeys(name for cell in cells for name in of_several(cell.records)))
        rows = [["policy", "prompt", "n", *FIGURES, *several, "paper"]]
        rows += [
            [c.policy, c.prompt, c.count, *_figures(c.records), *_several(c.records, several), _paper(c)] for c in cells
        ]
        parts += [f"## {dataset}", _rows(rows)]
        for tag in sorted({tag for cell in cells for tag in cell.tags}):
            rows = [["policy", "prompt", tag, "n", *FIGURES]]
            rows += [
                [cell.policy, cell.prompt, value, str(len(part)), *_figures(part)]
                for cell in cells
                for value, part in cell.tags.get(tag, {}).items()
            ]
            rows += [
                [cell.policy, cell.prompt, f"mean of {len(cell.tags[tag])}", "", _mean(cell.tags[tag]), "", ""]
                for cell in cells
                if tag in cell.tags
            ]
            parts.append(_rows(rows))
        for cell in cells:
            settings = json.dumps(cell.settings, indent=2)
            parts.append(f"Settings of {cell.policy}, {cell.prompt}:\n\n```json\n{settings}\n```")
    return "\n\n".join(parts) + "\n"


def _mean(parts: Mapping[str, Sequence[SampleRecord]]) -> str:
    return f"{100 * mean_accuracy(parts):.1f}"


def _figures(records: Sequence[SampleRecord]) -> list[str]:
    apart = (not_parseable(records), cut_off(records))
    return [percent(accuracy(records)), *(f"{100 * share.value:.1f}" for share in apart)]


def _several(records: Sequence[SampleRecord], names: Sequence[str]) -> list[str]:
    shares = of_several(records)
    return [percent(shares[name]) if name in shares else "-" for name in names]


def _paper(cell: Measured) -> str:
    return ", ".join(map(str, cell.paper)) or "-"


def _rows(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar in a value is no border."""
    header, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body])
