"""Where the parts of a run lie: keys only, the same in a folder and in a bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vigorl_lib.errors import ConfigError
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.current import CURRENT

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class RunLayout:
    """Keys of one run. A run id may have parts (`quickstart/sft`); its characters are safe in any path."""

    storage: Storage
    run_id: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.run_id):
            raise ConfigError(
                f"expected a run id of letters, digits, '.', '_', '-' and '/', found {self.run_id!r}",
                reason="RUN_ID_INVALID",
            )

    @property
    def root(self) -> str:
        return f"runs/{self.run_id}"

    @property
    def config(self) -> str:
        return f"{self.root}/config.json"

    @property
    def report(self) -> str:
        return f"{self.root}/report.html"

    @property
    def chains(self) -> str:
        """Prefix of Parquet files."""
        return f"{self.root}/chains"

    @property
    def checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    @property
    def weights(self) -> str:
        return f"{self.root}/weights"

    @property
    def weights_current(self) -> str:
        """The desired version, for every replica to load."""
        return f"{self.weights}/{CURRENT}"

    @property
    def trajectories(self) -> str:
        return f"{self.root}/trajectories"

    @property
    def metrics(self) -> str:
        return f"{self.root}/metrics"

    @property
    def searches(self) -> str:
        """Prefix of all shards' journals."""
        return f"{self.root}/search"

    @property
    def trees(self) -> str:
        """The archive of the run's trees."""
        return f"{self.searches}/trees.jsonl.zst"

    def search(self, shard: str | int = 0) -> str:
        """Prefix of a shard's journal."""
        return f"{self.searches}/{_padded(shard)}"

    def evaluation(self, policy: str, mode: str) -> str:
        """Prefix of the sample records of one cell of the results table."""
        return f"{self.root}/evaluation/{policy}/{mode}"

    def checkpoint(self, step: int) -> str:
        return f"{self.checkpoints}/step-{step:06d}"

    def weight_version(self, version: int) -> str:
        return f"{self.weights}/{version:06d}"

    def trajectories_of(self, step: int) -> str:
        """Prefix of the groups that were rolled out for one training step."""
        return f"{self.trajectories}/{step:06d}"


def _padded(shard: str | int) -> str:
    return f"{shard:05d}" if isinstance(shard, int) else shard
