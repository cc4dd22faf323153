"""A report as one self-contained HTML file: no outside asset, no script, the same bytes for the same report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from vigorl_lib.report.chain import render_chain
from vigorl_lib.report.chain_statistics import render_statistics
from vigorl_lib.report.content import Case, Report, SearchPart
from vigorl_lib.report.quickstart import CHAIN_FIGURES
from vigorl_lib.report.results import charts, comparison_table, costs, results_table
from vigorl_lib.report.trajectory import render_others, render_scene, render_trajectory
from vigorl_lib.report.tree import render_tree

LEGEND = (
    '<p class="legend"><span class="key box target">target</span><span class="key box window">what a zoom showed</span>'
    '<span class="key spot">1</span> points, numbered as they were first cited; coordinates are pixels of the first '
    "view</p>"
)


def render_page(report: Report) -> str:
    """The whole document. Images of cases, trees and chains must hold their bytes."""
    sections = [
        ("one-question", "One question", _opening(report)),
        ("results", "Results", _results(report)),
        ("learning", "Learning", charts(report)),
        ("answers", "Questions and answers", _cases(report)),
        ("search", "Search trees", "".join(map(_search, report.searches))),
        ("chains", "Chains to learn from", _chains(report)),
        ("costs", "What it cost", costs(report.stages)),
    ]
    return render_document(report.title, _header(report), sections)


def render_document(title: str, header: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A whole file of (id, heading, HTML) sections, linked at the top; those without content are left out."""
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in shown)
    body = "".join(
        f'<section id="{name}"><h2>{escape(heading)}</h2>{content}</section>' for name, heading, content in shown
    )
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>\n{style}</style></head>"
        f"<body><nav><div><b>ViGoRL</b>{links}</div></nav><main>{header}{body}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    cards = "".join(
        f'<div class="card"><b>{escape(h.value)}</b><i>{escape(h.interval)}</i><span>{escape(h.text)}</span></div>'
        for h in report.headlines
    )
    notes = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in report.notes)
    return (
        f'<header class="top"><p class="eyebrow">run {escape(report.run_id)} · seed {report.seed}</p>'
        f"<h1>{escape(report.title)}</h1><p>{escape(report.lead)}</p></header>"
        f'{f"""<div class="cards">{cards}</div>""" if cards else ""}'
        f'{f"""<dl class="notes">{notes}</dl>""" if notes else ""}'
    )


def _results(report: Report) -> str:
    if not report.cells:
        return ""
    n = max(len(records) for records in report.cells.values())
    pairs = comparison_table(report)
    return (
        f"{results_table(report)}"
        f'<p class="soft">Percent of {n} test questions with 95 % Wilson intervals, answered greedily. <i>hit</i>: the '
        "last zoom showed the target or, without a zoom, the last point lies on it. <i>error</i>: median distance of "
        "that point to the target's middle, in pixels of the first view.</p>"
        + (
            f"<h3>The same questions, pair by pair</h3>{pairs}"
            '<p class="soft">Percentage points with 95 % paired bootstrap intervals; p of McNemar\'s exact test.</p>'
            if pairs
            else ""
        )
    )


def _opening(report: Report) -> str:
    """The first case's last answer, large."""
    if not report.cases:
        return ""
    case = report.cases[0]
    return render_case(Case(case.example, case.answers[-1:])) + LEGEND


def _cases(report: Report) -> str:
    rest = "".join(map(render_case, report.cases))
    intro = '<p class="soft">Chosen to show changes and mistakes, not at random.</p>'
    return intro + LEGEND + rest if rest else ""


def render_case(case: Case) -> str:
    """A question with its picture, and how each policy went about it. All images must hold their bytes."""
    example, last = case.example, case.answers[-1][1]
    tags = "".join(f'<span class="chip">{escape(name)}: {escape(value)}</span>' for name, value in example.tags.items())
    truth = f"truth: <b>{escape(example.truth.answer) or 'the target'}</b>"
    strips = "".join(render_trajectory(trajectory, example.images[0], name) for name, trajectory in case.answers)
    return (
        f'<article class="case"><div class="scene">{render_scene(example, last)}'
        f"{render_others(example)}"
        f'<p class="question">{escape(example.question)}</p><p class="seen">{truth} {tags}</p></div>'
        f'<div class="strips">{strips}</div></article>'
    )


def _search(part: SearchPart) -> str:
    trees = "".join(render_tree(tree, example, unfolded=k == 0) for k, (tree, example) in enumerate(part.trees))
    return f"<h3>{escape(part.title)}</h3>{_figures(part.figures)}{trees}"


def _chains(report: Report) -> str:
    chains = "".join(render_chain(chain, title) for title, chain in report.chains)
    statistics = render_statistics(report.chain_statistics, CHAIN_FIGURES)
    return f'{statistics}<div class="chains">{chains}</div>' if chains else ""


def _figures(figures: Sequence[tuple[str, str]]) -> str:
    parts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures)
    return f'<dl class="figures">{parts}</dl>' if parts else ""
