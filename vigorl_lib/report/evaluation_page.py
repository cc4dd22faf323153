"""The page of a run's evaluations: results, categories, behaviours, every setting, and samples to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.errors import ConfigError
from vigorl_lib.evaluation.behaviours import Mean, summarize_behaviours, summarize_counts
from vigorl_lib.evaluation.benchmarks.paper import PaperRow, paper_rows
from vigorl_lib.evaluation.benchmarks.table import mean_accuracy
from vigorl_lib.evaluation.metrics import (
    Proportion,
    SampleRecord,
    accuracy,
    by_question,
    cut_off,
    not_parseable,
    of_several,
    summarize,
)
from vigorl_lib.evaluation.run import flat_settings
from vigorl_lib.evaluation.table import APART
from vigorl_lib.prompts import Prompt, load_prompt
from vigorl_lib.report.content import Case, mode_name
from vigorl_lib.report.evaluation import Gathered, Measured
from vigorl_lib.report.page import LEGEND, render_case, render_document
from vigorl_lib.report.results import ends, share_cell, table
from vigorl_lib.report.svg import interval_bar

OUTCOMES = {"malformed": "Not parseable", "no_answer": "No answer", "wrong": "Wrong", "correct": "Correct"}
"""What questions are sorted by. One that several answered stands under the first that holds of any of them."""

Load = Callable[[Image], Image]
"""Gives an image its bytes."""


def render_evaluation(gathered: Gathered, load: Load, *, samples: int) -> str:
    """The whole document, with `samples` questions of each outcome and data set."""
    by_dataset: dict[str, list[Measured]] = {}
    for cell in gathered.cells:
        by_dataset.setdefault(cell.dataset, []).append(cell)
    sections = [("overview", "Overview", _overview(gathered.cells))] if len(by_dataset) > 1 else []
    for number, (dataset, cells) in enumerate(by_dataset.items()):
        shown = _samples(cells, gathered.examples[dataset], load, samples)
        parts = (_results(cells), _paper(cells), _categories(cells), _behaviours(cells), _settings(cells))
        under = f'<h3 id="samples-{number}">Samples</h3>{shown}' if shown else ""
        sections.append((f"data-{number}", dataset, "".join(parts) + under))
    policies = ", ".join(dict.fromkeys(cell.policy for cell in gathered.cells))
    header = (
        f'<header class="top"><p class="eyebrow">run {escape(gathered.run_id)}</p><h1>Evaluation</h1>'
        f"<p>{escape(policies)} on {escape(', '.join(by_dataset))}.</p></header>"
    )
    return render_document(f"Evaluation of {gathered.run_id}", header, sections)


def _overview(cells: Sequence[Measured]) -> str:
    """A row for each cell of every data set, with the paper's number for the same prompt."""
    body = []
    for cell in cells:
        paper = ", ".join(map(str, cell.paper)) or "–"
        body.append(
            f'<tr><th scope="row">{escape(cell.dataset)}</th><td>{escape(_name(cell))}</td>'
            f"<td class=number>{cell.count}</td><td>{share_cell(cell.records)}</td>"
            f"{_shares_apart(cell.records)}"
            f'<td class="ends">{escape(paper)}</td></tr>'
        )
    head = ["data set", "policy, prompt", "n", "accuracy", *APART, "the paper, same prompt"]
    return table(head, body, "results pairs")


def _results(cells: Sequence[Measured]) -> str:
    head = ["policy", "prompt", "n", "accuracy", *APART, "zooms", "turns", "how it ended"]
    body = [_row(cell) for cell in cells]
    note = (
        '<p class="soft">Percent of samples with 95 % intervals (Wilson; wider where several samples are about one '
        "image). <i>Not parseable</i>: no answer, or one that cannot be read as what was asked for; it counts as "
        "wrong. <i>Cut off</i>: ended by a limit of tokens; what was said until then is scored like any other answer."
        f"</p>{_several(cells)}"
    )
    return table(head, body, "results") + note


def _row(cell: Measured) -> str:
    figures = summarize(cell.records)
    numbers = (f"{figures['zoom_rate']:.0%}", f"{figures['turns']:.2f}")
    return (
        f'<tr class="first"><th scope="row">{escape(cell.policy)}</th><td>{escape(mode_name(cell.prompt))}</td>'
        f"<td class=number>{cell.count}</td><td>{share_cell(cell.records)}</td>{_shares_apart(cell.records)}"
        f'{"".join(f"<td class=number>{n}</td>" for n in numbers)}<td class="ends">{ends(cell.records)}</td></tr>'
    )


def _shares_apart(records: Sequence[SampleRecord]) -> str:
    shares = (not_parseable(records), cut_off(records))
    return "".join(f"<td class=number>{100 * share.value:.1f}</td>" for share in shares)


def _several(cells: Sequence[Measured]) -> str:
    """pass@k and votes, where questions were answered more than once."""
    found = [(cell, of_several(cell.records)) for cell in cells]
    names = list(dict.fromkeys(name for _, shares in found for name in shares))
    if not names:
        return ""
    body = [
        f'<tr><th scope="row">{escape(_name(cell))}</th><td class=number>{len(by_question(cell.records))}</td>'
        f"{''.join(f'<td class=number>{_percent(shares.get(name))}</td>' for name in names)}</tr>"
        for cell, shares in found
    ]
    return f"<h3>Several samples a question</h3>{table(['', 'questions', *names], body, 'results')}"


def _percent(share: Proportion | None) -> str:
    if share is None:
        return "–"
    return f"<b>{100 * share.value:.1f}</b> <small>{100 * share.low:.1f} … {100 * share.high:.1f}</small>"


def _paper(cells: Sequence[Measured]) -> str:
    """Our cells and the paper's numbers for the same prompts on one axis; its other numbers folded away."""
    rows = paper_rows(cells[0].dataset.partition("/")[0])
    if not rows:
        return ""
    prompts = {cell.prompt for cell in cells}
    ours = [_on_axis(c.policy, c.prompt, _percent(share := accuracy(c.records)), share, "this run") for c in cells]
    same = [_printed(row) for row in rows if row.prompt in prompts]
    others = [_printed(row) for row in rows if row.prompt not in prompts]
    head = ["model", "prompt", "accuracy", "", "source"]
    folded = (
        f"<details><summary>Asked in other ways <small>{len(others)} rows</small></summary>"
        f"{table(head, others, 'pairs')}</details>"
    )
    return (
        f"<h3>Beside the paper</h3>{table(head, [*ours, *same], 'pairs')}"
        '<p class="soft">The paper\'s numbers as printed in arXiv 2505.23678, those for the same prompts.</p>'
        f"{folded if others else ''}"
    )


def _printed(row: PaperRow) -> str:
    value, half = row.accuracy / 100, (row.half_width or 0.0) / 100
    share = Proportion(value, max(0.0, value - half), min(1.0, value + half), 0)
    return _on_axis(row.model, row.prompt, escape(row.figure), share, f"Table {row.table}")


def _on_axis(name: str, prompt: str, told: str, share: Proportion, source: str) -> str:
    ours = ' class="clear"' if source == "this run" else ""
    return (
        f'<tr{ours}><th scope="row">{escape(name)}</th><td>{escape(mode_name(prompt)) or "–"}</td>'
        f'<td class=number>{told}</td><td class="axis">{interval_bar(share.value, share.low, share.high)}</td>'
        f"<td>{escape(source)}</td></tr>"
    )


def _categories(cells: Sequence[Measured]) -> str:
    parts = []
    for tag in dict.fromkeys(tag for cell in cells for tag in cell.tags):
        found = [cell.tags.get(tag, {}) for cell in cells]
        body = [
            f'<tr><th scope="row">{escape(mode_name(value))}</th><td class=number>{_sizes(found, value)}</td>'
            f"{''.join(_category(part.get(value, [])) for part in found)}</tr>"
            for value in sorted({value for part in found for value in part})
        ]
        means = "".join(f"<td>{_mean_of(part)}</td>" for part in found)
        body.append(f'<tr class="first"><th scope="row">mean</th><td></td>{means}</tr>')
        heading = f"<h3>By {escape(mode_name(tag))}</h3>"
        parts.append(f"{heading}{table(['', 'n', *map(_name, cells)], body, 'results')}")
    note = '<p class="soft">The mean counts every category alike.</p>'
    return "".join(parts) + note if parts else ""


def _sizes(found: Sequence[Mapping[str, Sequence[SampleRecord]]], value: str) -> str:
    """How many samples; more than one number where cells have other numbers of them."""
    return ", ".join(str(n) for n in sorted({len(part.get(value, [])) for part in found}))


def _category(part: Sequence[SampleRecord]) -> str:
    return f"<td>{share_cell(part)}</td>" if part else "<td>–</td>"


def _mean_of(part: Mapping[str, Sequence[SampleRecord]]) -> str:
    return f"<span class=number><b>{100 * mean_accuracy(part):.1f}</b></span>" if part else "–"


def _behaviours(cells: Sequence[Measured]) -> str:
    shown = [cell for cell in cells if cell.kept]
    if not shown:
        return ""
    counted = [(_name(cell), summarize_behaviours(cell.behaviours)) for cell in shown]
    counted += [
        (f"{_name(cell)}, by {who}", summarize_counts(counts))
        for cell in shown
        for who, counts in sorted(cell.judged.items())
    ]
    names = [name for name in counted[0][1] if any(name in means and means[name].n for _, means in counted)]
    body = [
        f'<tr><th scope="row">{escape(mode_name(name))}</th>'
        f"{''.join(_mean(means.get(name)) for _, means in counted)}</tr>"
        for name in names
    ]
    return (
        f"<h3>Behaviours</h3>{table(['a trajectory', *(name for name, _ in counted)], body, 'results')}"
        '<p class="soft">Means over the kept trajectories with 95 % bootstrap intervals; of a judge, over those that '
        "it was shown. Rules count places exactly and read subgoals, verification, backtracking off turns of phrase. "
        "<i>Point accuracy</i>: share of cited points that lie where the answer shows.</p>"
    )


def _mean(mean: Mean | None) -> str:
    if mean is None or mean.n == 0:
        return "<td>–</td>"
    return f"<td class=number><b>{mean.value:.2f}</b> <small>{mean.low:.2f} … {mean.high:.2f}</small></td>"


def _settings(cells: Sequence[Measured]) -> str:
    """Every setting of every cell; those in which cells differ stand first."""
    flat = [flat_settings(cell.settings) | {"judged_by": ", ".join(cell.judges) or "rules"} for cell in cells]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    different = [key for key in keys if len({one.get(key, "–") for one in flat}) > 1]
    ordered = [*different, *(key for key in keys if key not in different)]
    body = [_setting(key, [one.get(key, "–") for one in flat], key in different) for key in ordered]
    prompts = "".join(_prompt(digest, cells) for digest in dict.fromkeys(map(_digest, cells)))
    return (
        f"<details><summary>How it was asked <small>{len(keys)} settings, prompts with their digests</small></summary>"
        f"{table(['setting', *map(_name, cells)], body, 'settings')}{prompts}</details>"
    )


def _setting(key: str, values: Sequence[str], different: bool) -> str:
    if different:
        told = "".join(f"<td>{escape(value)}</td>" for value in values)
    else:
        told = f'<td colspan="{len(values)}">{escape(values[0])}</td>'
    return f'<tr><th scope="row">{escape(key)}</th>{told}</tr>'


def _digest(cell: Measured) -> str:
    return str(cell.settings["prompt_sha256"])


def _prompt(digest: str, cells: Sequence[Measured]) -> str:
    """The text of a prompt and who was asked with it."""
    asked = [cell for cell in cells if _digest(cell) == digest]
    found = _found_prompt(asked[0])
    text = found.text if found is not None else "This version of the package has no prompt with this digest."
    names = "; ".join(map(_name, asked))
    return f"<h4>{escape(names)} <small>prompt {escape(digest[:16])}…</small></h4><pre>{escape(text)}</pre>"


def _found_prompt(cell: Measured) -> Prompt | None:
    """The prompt that was asked with, if the package still has it word for word."""
    for frame in (Frame.MODEL, Frame.NORMALIZED):
        try:
            prompt = load_prompt(cell.settings["task"]["family"], cell.prompt, frame)
        except ConfigError:
            return None
        if prompt.sha256 == _digest(cell):
            return prompt
    return None


def _samples(cells: Sequence[Measured], examples: Mapping[str, Example], load: Load, count: int) -> str:
    """Questions by what became of them, each with what all cells made of it."""
    answers: dict[str, list[tuple[str, Trajectory]]] = {}
    for cell in cells:
        for trajectory in cell.kept:
            number = trajectory.trajectory_id.rpartition("/")[2]
            name = _name(cell) if number == "0" else f"{_name(cell)} #{number}"
            answers.setdefault(trajectory.example_id, []).append((name, trajectory))
    by_outcome: dict[str, list[str]] = {}
    for name, said in answers.items():
        if name in examples:
            outcomes = {trajectory.outcome for _, trajectory in said}
            by_outcome.setdefault(next(one for one in OUTCOMES if one in outcomes), []).append(name)
    parts: list[str] = []
    for outcome, title in OUTCOMES.items():
        chosen = by_outcome.get(outcome, [])[:count]
        if chosen:
            cases = "".join(render_case(_case(examples[name], answers[name], load)) for name in chosen)
            told = f"{len(chosen)} of {len(by_outcome[outcome])} kept"
            opened = " open" if not parts else ""
            parts.append(f"<details{opened}><summary>{title} <small>{told}</small></summary>{cases}</details>")
    return LEGEND + "".join(parts) if parts else ""


def _case(example: Example, answers: Sequence[tuple[str, Trajectory]], load: Load) -> Case:
    loaded = replace(example, images=tuple(map(load, example.images)))
    return Case(loaded, [(name, with_crops(trajectory, load)) for name, trajectory in answers])


def with_crops(trajectory: Trajectory, load: Load) -> Trajectory:
    """The trajectory with the bytes of what its zooms showed."""

    def loaded(record: TurnRecord) -> TurnRecord:
        return replace(record, crop_image=load(record.crop_image)) if record.crop_image is not None else record

    return replace(trajectory, turns=tuple(map(loaded, trajectory.turns)))


def _name(cell: Measured) -> str:
    return f"{cell.policy}, {mode_name(cell.prompt)}"
