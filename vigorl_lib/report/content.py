"""What a report shows, as plain data: `run` gathers it from storage, `page` draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.evaluation.table import Cell, Cells, Comparison
from vigorl_lib.jobs.stages import StageRecord
from vigorl_lib.search.tree import Tree

Metrics = Sequence[Mapping[str, float]]
"""One record a step, with `step`."""


@dataclass(frozen=True, slots=True)
class Headline:
    """One number that a reader should not miss."""

    value: str
    interval: str
    text: str


@dataclass(frozen=True, slots=True)
class Greedy:
    """A policy measured on the test split at one step of a training stage."""

    step: int
    cell: Cell


@dataclass(frozen=True, slots=True)
class Case:
    """One question and how several policies went about it, named."""

    example: Example
    answers: Sequence[tuple[str, Trajectory]]


@dataclass(frozen=True, slots=True)
class SearchPart:
    """A search over a data set: its figures as (name, text), and a few of its trees."""

    title: str
    figures: Sequence[tuple[str, str]]
    trees: Sequence[tuple[Tree, Example]]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything on the page. Parts that a run has not got are left empty and are not shown."""

    title: str
    lead: str
    run_id: str
    seed: int
    notes: Sequence[tuple[str, str]] = ()
    """(heading, text) of what to know before reading the numbers."""
    headlines: Sequence[Headline] = ()
    cells: Cells = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    """What policies are called; others go by their own name."""
    highlighted: Cell | None = None
    comparisons: Sequence[Comparison] = ()
    losses: Mapping[str, Metrics] = field(default_factory=dict)
    """Metrics of the supervised stages by their titles."""
    rollouts: Metrics = ()
    """Metrics of GRPO."""
    greedy: Sequence[Greedy] = ()
    cases: Sequence[Case] = ()
    searches: Sequence[SearchPart] = ()
    chains: Sequence[tuple[str, Trajectory]] = ()
    chain_statistics: Mapping[str, float] = field(default_factory=dict)
    stages: Sequence[StageRecord] = ()

    def name(self, policy: str) -> str:
        return self.names.get(policy, policy)

    def cell_name(self, cell: Cell) -> str:
        return f"{self.name(cell[0])}, {mode_name(cell[1])}"


def mode_name(mode: str) -> str:
    return mode.replace("_", " ")
