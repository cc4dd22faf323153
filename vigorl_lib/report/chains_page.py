"""One HTML page about the chains of a run: the statistics, and some chains of each kind as the learner reads them.

It is a page of `vigorl linearize`, of any run; the report of a quickstart run is `vigorl_lib.report.run`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from html import escape

from vigorl_lib.domain.image import Image
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.report.chain import render_chain, with_bytes
from vigorl_lib.report.chain_statistics import render_statistics
from vigorl_lib.report.page import render_document
from vigorl_lib.report.quickstart import CHAIN_FIGURES
from vigorl_lib.search.linearize import kind_of

SAMPLES = 4
"""Chains shown of each kind."""


def render_chains(
    chains: Sequence[Trajectory],
    statistics: Mapping[str, float],
    load: Callable[[Image], Image],
    *,
    name: str,
    run_id: str,
    seed: int,
) -> str:
    """The whole document; `load` gives images their bytes, and which chains are shown follows from the seed."""
    by_kind: dict[str, list[Trajectory]] = {}
    for chain in chains:
        by_kind.setdefault(kind_of(chain), []).append(chain)
    sections = [("statistics", "Statistics", render_statistics(statistics, CHAIN_FIGURES) + _left_out(statistics))]
    for kind, found in sorted(by_kind.items()):
        rng = random.Random(derive_seed(seed, "samples", kind))
        shown = sorted(rng.sample(found, min(SAMPLES, len(found))), key=lambda chain: chain.trajectory_id)
        rows = "".join(render_chain(with_bytes(chain, load), chain.trajectory_id) for chain in shown)
        count = f'<p class="soft">{len(shown)} of {len(found):,}, drawn by seed.</p>'
        sections.append((kind, f"Chains: {kind}", f'{count}<div class="chains">{rows}</div>'))
    header = (
        f'<header class="top"><p class="eyebrow">run {escape(run_id)} · seed {seed}</p>'
        f"<h1>Chains: {escape(name)}</h1></header>"
    )
    return render_document(f"Chains: {name}", header, sections)


def _left_out(statistics: Mapping[str, float]) -> str:
    """What the filters left out, and what an export could not tell."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{count:,.0f}</td></tr>'
        for name, count in sorted(statistics.items())
        if name.startswith(("left_out_", "not_exported_"))
    )
    return f"<table><caption>Left out</caption><tbody>{rows}</tbody></table>" if rows else ""
