"""In which order sequences are trained on: a pure function of sizes, weights and a seed.

A run that is resumed at step k skips k batches of the same endless stream, so the position in the data is
the step and nothing else. Only indexes and lengths are known here.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from vigorl_lib.models.inputs import like_lengths


def draws(sizes: Sequence[int], weights: Sequence[float], seed: int) -> Iterator[int]:
    """Indexes into the concatenation of all sources, without end.

    Sources alternate in proportion to their weights; each goes through all of its items in a new random
    order before one comes again.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"every source needs an item, found sizes {list(sizes)}")
    offsets = np.cumsum([0, *sizes[:-1]])
    streams = [_shuffled(size, seed, source) for source, size in enumerate(sizes)]
    shares = np.asarray(weights, dtype=np.float64) / sum(weights)
    credit = np.zeros(len(sizes))
    while True:
        credit += shares
        source = int(credit.argmax())
        credit[source] -= 1.0
        yield int(offsets[source]) + next(streams[source])


def batches(indexes: Iterator[int], batch: int) -> Iterator[list[int]]:
    """The same indexes, so many at a time."""
    while True:
        yield list(islice(indexes, batch))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one forward pass of one rank may hold: at most so many sequences, and tokens unless one alone has more."""

    sequences: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """What several sequences may begin with: equal `key`, equal tokens; `tokens` of them."""

    key: Hashable
    tokens: int


def plan_micro_batches(
    lengths: Sequence[int],
    world: int,
    limits: Limits,
    *,
    prompts: Sequence[Prompt] = (),
    attention: float = 0.0,
) -> list[list[list[int]]]:
    """Indexes per rank and micro-batch: cost balanced over ranks and passes, as many passes on every rank.

    Sequences with the same prompt stay together where limits and balance allow, so that it is computed once. A
    sequence of L tokens costs L * (1 + `attention` * L). Each rank has the same number of micro-batches, because with
    partitioned parameters all ranks run every forward pass together; those that do not go round are empty.

    >>> plan_micro_batches([5, 1, 4, 2], 2, Limits(sequences=1, tokens=8))
    [[[0], [1]], [[2], [3]]]
    """
    sizes = [
        _Size(length, length * (1.0 + attention * length), prompts[index].tokens if prompts else 0)
        for index, length in enumerate(lengths)
    ]
    together: dict[Hashable, list[int]] = {}
    for index in range(len(lengths)):
        together.setdefault(prompts[index].key if prompts else index, []).append(index)
    units = [unit for indexes in together.values() for unit in _units(indexes, sizes, limits)]
    fair = sum(unit.cost for unit in units) / world
    units = [part for unit in units for part in _split(unit, sizes, fair)]
    ranks: list[list[_Unit]] = [[] for _ in range(world)]
    for unit in sorted(units, key=lambda unit: -unit.cost):
        min(ranks, key=lambda rank: sum(other.cost for other in rank)).append(unit)
    passes = 1
    while True:
        plan = [_passes(rank, passes, limits) for rank in ranks]
        if all(plan):
            return plan
        passes += 1


@dataclass(frozen=True, slots=True)
class _Size:
    """Of one sequence: tokens, cost of all of them, and how many of them it may share."""

    tokens: int
    cost: float
    prompt: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """Sequences that stay together; `tokens` and `cost` count their prompt once."""

    indexes: list[int]
    tokens: int
    cost: float


def _unit(indexes: list[int], sizes: Sequence[_Size]) -> _Unit:
    first, *others = (sizes[index] for index in indexes)
    own = [(size.tokens - size.prompt) / size.tokens for size in others]
    tokens = first.tokens + sum(size.tokens - size.prompt for size in others)
    return _Unit(indexes, tokens, first.cost + sum(size.cost * share for size, share in zip(others, own, strict=True)))


def _units(indexes: Sequence[int], sizes: Sequence[_Size], limits: Limits) -> list[_Unit]:
    """Sequences of one prompt, cut where a limit would be passed."""
    units: list[_Unit] = []
    for index in indexes:
        grown = _unit([*units[-1].indexes, index], sizes) if units else None
        if grown is not None and _fits(grown, limits):
            units[-1] = grown
        else:
            units.append(_unit([index], sizes))
    return units


def _split(unit: _Unit, sizes: Sequence[_Size], fair: float) -> list[_Unit]:
    """A unit in as many parts as it has `fair` shares of a rank's cost."""
    parts = min(len(unit.indexes), max(1, round(unit.cost / fair)))
    return [_unit(part.tolist(), sizes) for part in np.array_split(unit.indexes, parts)]


def _passes(units: Sequence[_Unit], passes: int, limits: Limits) -> list[list[int]]:
    """A rank's units, dearest first, in this many passes of like cost; nothing if they do not fit."""
    made = [_Unit([], 0, 0.0) for _ in range(passes)]
    for unit in units:
        for number in sorted(range(passes), key=lambda number: made[number].cost):
            old = made[number]
            grown = _Unit(old.indexes + unit.indexes, old.tokens + unit.tokens, old.cost + unit.cost)
            if not old.indexes or _fits(grown, limits):
                made[number] = grown
                break
        else:
            return []
    return [each.indexes for each in made]


def _fits(unit: _Unit, limits: Limits) -> bool:
    return len(unit.indexes) <= limits.sequences and unit.tokens <= limits.tokens


def padding_share(lengths: Sequence[int], micro_batches: Sequence[Sequence[int]]) -> float:
    """Share of padding in the attention of some micro-batches where it runs in grids; other layers see none."""
    sizes = [[lengths[index] for index in indexes] for indexes in micro_batches]
    places = sum(len(grid) * size[grid[0]] for size in sizes for grid in like_lengths(size))
    return 1.0 - sum(map(sum, sizes)) / places if places else 0.0


def _shuffled(size: int, seed: int, source: int) -> Iterator[int]:
    for epoch in count():
        yield from np.random.default_rng((seed, source, epoch)).permutation(size).tolist()
