"""Bring a benchmark's published files into storage as a data set; from then on it is read like any other.

The data set is called as the benchmark, and its manifest tells what was imported: split, layout and image limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from vigorl_lib.data.datasets import find_manifest, write_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.evaluation.benchmarks.spec import Benchmark
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore


def import_benchmark(
    storage: Storage,
    benchmark: Benchmark,
    root: Path,
    split: str = "",
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Import a split whose files lie below `root`; returns the number of questions.

    One image is in memory at a time. The same again changes nothing. Raises what `Benchmark.examples` and
    `write_dataset` raise; then no data set is written, and what images were is used by the next try.
    """
    split = split or benchmark.split
    images = ImageStore(storage, cache_bytes=0)
    count = 0

    def stored() -> Iterator[Example]:
        nonlocal count
        for example in benchmark.examples(root, split):
            yield example
            count += 1
            on_progress(count)

    settings = {"importer": "benchmark", "benchmark": benchmark.name, "max_side": benchmark.max_side}
    write_dataset(storage, images, benchmark.name, split, stored(), created_from=settings)
    return count


def is_imported(storage: Storage, benchmark: Benchmark, split: str = "") -> bool:
    """Whether storage has a split of this benchmark; a data set of the same name from elsewhere is none."""
    manifest = find_manifest(storage, benchmark.name)
    part = None if manifest is None else manifest.splits.get(split or benchmark.split)
    return part is not None and part.created_from.get("benchmark") == benchmark.name
