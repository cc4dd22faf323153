"""In which order sequences are trained on: a pure function of sizes, weights and a seed.

A run that is resumed at step k skips k batches of the same endless stream, so the position in the data is
the step and nothing else. Only indexes and lengths are known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice, pairwise

import numpy as np
from numpy.typing import NDArray


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


def batches(
    indexes: Iterator[int], lengths: NDArray[np.int64], batch: int, window: int, seed: int
) -> Iterator[list[int]]:
    """Batches of indexes; with a `window` above 1, sequences of that many batches are grouped by length first.

    The batches of one window then come in random order, so that lengths do not rise and fall.
    """
    for number in count():
        drawn = list(islice(indexes, batch * window))
        if window > 1:
            drawn.sort(key=lambda index: int(lengths[index]))
        groups = [drawn[start : start + batch] for start in range(0, len(drawn), batch)]
        for group in np.random.default_rng((seed, number)).permutation(window) if window > 1 else range(window):
            yield groups[group]


def plan_micro_batches(lengths: Sequence[int], world: int, micro_batch: int) -> list[list[list[int]]]:
    """Indexes per rank and micro-batch: tokens balanced over ranks, like lengths together, as many on every rank.

    Each rank has the same number of micro-batches, because with partitioned parameters all ranks run every
    forward pass together; where sequences do not go round, a rank's last micro-batches are empty.

    >>> plan_micro_batches([5, 1, 4, 2], world=2, micro_batch=1)
    [[[0], [1]], [[2], [3]]]
    """
    ranks: list[list[int]] = [[] for _ in range(world)]
    tokens, room = [0] * world, -(-len(lengths) // world)
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        rank = min((r for r in range(world) if len(ranks[r]) < room), key=lambda r: tokens[r])
        ranks[rank].append(index)
        tokens[rank] += lengths[index]
    passes = -(-room // micro_batch)
    return [_chunks(indexes, passes) for indexes in ranks]


def padding_share(lengths: Sequence[int], micro_batches: Sequence[Sequence[int]]) -> float:
    """Share of the positions of some micro-batches that holds padding."""
    real = sum(lengths[index] for indexes in micro_batches for index in indexes)
    padded = sum(len(indexes) * max(lengths[index] for index in indexes) for indexes in micro_batches if indexes)
    return 1.0 - real / padded if padded else 0.0


def _chunks(indexes: list[int], chunks: int) -> list[list[int]]:
    size, rest = divmod(len(indexes), chunks)
    bounds = np.cumsum([0, *(size + (number < rest) for number in range(chunks))])
    return [indexes[start:end] for start, end in pairwise(bounds)]


def _shuffled(size: int, seed: int, source: int) -> Iterator[int]:
    for epoch in count():
        yield from np.random.default_rng((seed, source, epoch)).permutation(size).tolist()
