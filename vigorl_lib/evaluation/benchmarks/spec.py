"""What a benchmark is: where its questions come from, how it is asked, and what its figure means.

`Benchmark.examples` reads published files into `Example`s whose boxes are half open, in pixels of the image that they
are about, whatever frame and order the files use. Nothing here asks a policy; `vigorl_lib.evaluation.run` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from vigorl_lib.domain.example import Example
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.evaluation.benchmarks.files import Files
from vigorl_lib.evaluation.benchmarks.pictures import joined, within_side
from vigorl_lib.rollout.task import TaskConfig

Read = Callable[[Files], Iterator[Example]]

MULTI_TURN = "multi_turn"
DIRECT = "direct"
"""The prompt of a model that was not trained to think: the answer alone."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which a benchmark was published.

    `splits` are the numbers of questions, 0 where the source does not say. `pattern` is a glob of the files of
    `{split}` anywhere below the folder that a user gives; `source` says where they come from.
    """

    splits: Mapping[str, int]
    pattern: str
    read: Read
    source: str

    def find(self, root: Path, split: str) -> Files | None:
        """The files of a split below `root`, in the order of their names; None where there are none."""
        paths = tuple(sorted(root.rglob(self.pattern.format(split=split))))
        return Files(root, paths, split) if paths else None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`prompts` are the ways of asking, files of the prompts' folder `family`; the first is the paper's for its model.

    `split` is the one that is measured unless another is named. `tags` are the categories that results are broken down
    by, `crossed` those of them whose combinations are shown, too. `max_side` is the longest side in pixels of what is
    stored, larger images are shrunk with their boxes; `max_pixels` what the policy should see at most (its resize
    rule). `join` puts several images side by side.
    """

    name: str
    title: str
    split: str
    layouts: tuple[Layout, ...]
    family: str
    prompts: tuple[str, ...]
    tags: tuple[str, ...] = ()
    crossed: tuple[str, ...] = ()
    max_side: int = 0
    max_pixels: int = 12_960_000
    join: bool = False
    metric: str = "share of right answers"
    zoom: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def splits(self) -> dict[str, int]:
        """Number of questions by split, 0 where no source says it."""
        return {split: count for layout in self.layouts for split, count in layout.splits.items()}

    def examples(self, root: Path, split: str = "") -> Iterator[Example]:
        """Questions of a split, their images with bytes, in the order of the files.

        Raises ConfigError (SPLIT_UNKNOWN), DataError (BENCHMARK_FILES_MISSING, or what is wrong with a row).
        """
        split = split or self.split
        if split not in self.splits:
            raise ConfigError(
                f"{self.name}: expected a split out of {', '.join(self.splits)}, found {split!r}",
                reason="SPLIT_UNKNOWN",
            )
        layouts = [layout for layout in self.layouts if split in layout.splits]
        found = next(((layout, files) for layout in layouts if (files := layout.find(root, split))), None)
        if found is None:
            wanted = " or ".join(layout.pattern.format(split=split) for layout in layouts)
            raise DataError(
                f"{root}: no files of {self.name}, split {split}; expected {wanted} somewhere below it "
                f"(from {layouts[0].source}; see docs/benchmarks.md)",
                reason="BENCHMARK_FILES_MISSING",
                benchmark=self.name,
            )
        layout, files = found
        empty = True
        for example in layout.read(files):
            empty = False
            yield self._prepared(example)
        if empty:
            names = ", ".join(path.name for path in files.paths)
            raise DataError(
                f"{self.name}: expected questions of the split {split} in {names}, found none",
                reason="BENCHMARK_FILES_MISSING",
                benchmark=self.name,
            )

    def task(self, prompt: str, base: TaskConfig) -> TaskConfig:
        """How the benchmark is asked with one of its prompts; what it does not settle is as in `base`.

        Raises ConfigError (PROMPT_UNKNOWN).
        """
        if prompt not in self.prompts:
            raise ConfigError(
                f"{self.name}: expected a prompt out of {', '.join(self.prompts)}, found {prompt!r}",
                reason="PROMPT_UNKNOWN",
            )
        zoom = base.zoom.model_dump() | dict(self.zoom) | ({"strict": False} if prompt == DIRECT else {})
        return base.model_copy(
            update={
                "family": self.family,
                "mode": MULTI_TURN if prompt == MULTI_TURN else "single_turn",
                "prompt": prompt,
                "zoom": ZoomConfig.model_validate(zoom),
            }
        )

    def _prepared(self, example: Example) -> Example:
        example = replace(example, task=self.name)
        if self.join:
            example = joined(example)
        return within_side(example, self.max_side) if self.max_side else example
