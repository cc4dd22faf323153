"""Two evaluations of the same questions side by side: the paired test, each category, and what flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vigorl_lib.errors import ConfigError
from vigorl_lib.evaluation.metrics import Paired, SampleRecord, compare
from vigorl_lib.evaluation.run import flat_settings

SHOWN_CHARACTERS = 80
"""Of an answer that flipped; what cannot be parsed may be pages long."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A sample on which the two differ; `answers` in the order of the two."""

    example_id: str
    sample: int
    gained: bool
    """The first is right and the second is not."""
    answers: tuple[str | None, str | None]
    outcomes: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Versus:
    """`first` minus `second`, over all questions and by each value of each tag."""

    overall: Paired
    by_tag: dict[str, dict[str, Paired]]
    flips: tuple[Flip, ...]
    only_in_one: int
    """Samples that only one of them has; they are compared nowhere."""


def versus(first: Sequence[SampleRecord], second: Sequence[SampleRecord], *, samples: int = 2000) -> Versus:
    """Raises ConfigError (EVALUATIONS_DISJOINT) where they share no question."""
    of_second = {(record.example_id, record.sample): record for record in second}
    pairs = [
        (record, of_second[record.example_id, record.sample])
        for record in first
        if (record.example_id, record.sample) in of_second
    ]
    if not pairs:
        raise ConfigError(
            "the two evaluations share no question; compare runs over the same data set and split",
            reason="EVALUATIONS_DISJOINT",
        )
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    values = {(tag, value) for record in left for tag, value in record.tags.items()}
    by_tag: dict[str, dict[str, Paired]] = {}
    for tag, value in sorted(values):
        part = [record for record in left if record.tags.get(tag) == value]
        by_tag.setdefault(tag, {})[value] = compare(part, right, samples=samples)
    flips = tuple(
        Flip(a.example_id, a.sample, a.correct, (a.answer, b.answer), (a.outcome, b.outcome))
        for a, b in pairs
        if a.correct != b.correct
    )
    return Versus(compare(left, right, samples=samples), by_tag, flips, len(first) + len(second) - 2 * len(pairs))


def settings_apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Settings in which two evaluations differ, by dotted name: (first, second).

    Raises ConfigError (EVALUATIONS_DISJOINT) for other data sets: example ids say nothing across them.
    """
    left, right = flat_settings(first), flat_settings(second)
    names = dict.fromkeys([*left, *right])
    apart = {name: (left.get(name, "-"), right.get(name, "-")) for name in names if left.get(name) != right.get(name)}
    if "dataset" in apart:
        raise ConfigError(
            f"the two evaluations are of {apart['dataset'][0]} and {apart['dataset'][1]}; compare runs over the same "
            "data set and split",
            reason="EVALUATIONS_DISJOINT",
        )
    return apart


def render_versus(found: Versus, first: str, second: str, *, max_flips: int = 20) -> str:
    """Plain text for a terminal; differences in points with 95 % intervals."""
    rows = [
        ["questions", "n", f"{first} − {second}", f"only {first}", f"only {second}", "p"],
        _row("all", found.overall),
    ]
    for tag, values in found.by_tag.items():
        rows += [_row(f"{tag}: {value}", paired) for value, paired in values.items()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "─" * max(map(len, lines)))
    if found.only_in_one:
        lines.append(f"{found.only_in_one} samples stand in one of the two only and are left out")
    if found.flips:
        shown = found.flips[:max_flips]
        lines += [
            "",
            f"{len(found.flips)} flips" + (f", the first {len(shown)}:" if len(shown) < len(found.flips) else ":"),
        ]
        lines += [_flip(flip) for flip in shown]
    return "\n".join(lines)


def _row(name: str, paired: Paired) -> list[str]:
    interval = f"{100 * paired.difference:+.1f} [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"
    return [name, str(paired.n), interval, str(paired.only_first), str(paired.only_second), f"{paired.p_value:.3g}"]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _flip(flip: Flip) -> str:
    name = flip.example_id if flip.sample == 0 else f"{flip.example_id} #{flip.sample}"
    said = [f"{_cut(repr(answer))} ({outcome})" for answer, outcome in zip(flip.answers, flip.outcomes, strict=True)]
    return f"  {'+' if flip.gained else '-'} {name}: {said[0]} / {said[1]}"
