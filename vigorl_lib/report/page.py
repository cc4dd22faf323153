"""The page: sections in order, one self-contained HTML file without any outside asset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from vigorl_lib.evaluation.metrics import Paired, Proportion


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole document; `sections` are (heading, HTML)."""
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    body = "".join(f"<section><h2>{escape(heading)}</h2>{html}</section>" for heading, html in sections if html)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{lead}{body}</main></body></html>\n"
    )


def card(value: str, text: str) -> str:
    return f'<div class="card"><b>{escape(value)}</b><span>{escape(text)}</span></div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, lead_rows: Sequence[int] = ()) -> str:
    """Cells are HTML; rows named in `lead_rows` stand out."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{' class=lead' if k in lead_rows else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for k, row in enumerate(rows)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def share(value: Proportion) -> str:
    return f"{100 * value.value:.1f} <small>[{100 * value.low:.1f}, {100 * value.high:.1f}]</small>"


def difference(paired: Paired) -> str:
    """Points with their interval, for example `+41.3 [36.0, 46.7]`."""
    return f"{100 * paired.difference:+.1f} <small>[{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]</small>"


def number(value: float, form: str) -> str:
    """A figure, or a dash where there is none."""
    return "–" if math.isnan(value) else format(value, form)
