"""Score the conversations of an evaluation again, by another reward, without asking the policy anything.

Needs the trajectories, so what was not kept cannot be scored again. The records of the evaluation stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import read_kept_trajectories, read_records, to_record
from vigorl_lib.reward.base import Reward, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.storage.base import Storage


async def rescore(
    examples: Sequence[Example], reward: Reward, config: RewardConfig, *, storage: Storage, prefix: str
) -> list[SampleRecord]:
    """Records of the kept samples under `config`, in the order of the examples.

    Raises ConfigError (TRAJECTORIES_MISSING) where the trajectory of a sample is not there, and what scoring raises.
    """
    trajectories: dict[tuple[str, int], Trajectory] = {}
    for trajectory in read_kept_trajectories(storage, prefix):
        number = int(trajectory.trajectory_id.rsplit("/", 1)[1])
        trajectories.setdefault((trajectory.example_id, number), trajectory)
    recorded = {(record.example_id, record.sample) for record in read_records(storage, prefix)}
    whole = {name for name, _ in trajectories} - {name for name, _ in recorded - trajectories.keys()}
    missing = [example.example_id for example in examples if example.example_id not in whole]
    if missing:
        evaluated = {name for name, _ in recorded}
        absent = sum(name not in evaluated for name in missing)
        raise ConfigError(
            f"{prefix}: the trajectories of {len(missing)} of {len(examples)} examples were not kept (first "
            f"{missing[0]}{f'; {absent} are not evaluated at all' if absent else ''}); evaluate under another run id "
            f"with evaluation.keep_trajectories={len(examples)} to be able to score them again",
            reason="TRAJECTORIES_MISSING",
        )
    order = {example.example_id: place for place, example in enumerate(examples)}
    by_id = {example.example_id: example for example in examples}
    chosen = sorted((key for key in trajectories if key[0] in by_id), key=lambda key: (order[key[0]], key[1]))
    items = [(by_id[name], trajectories[name, number]) for name, number in chosen]
    records = []
    for (example, trajectory), score, (_, number) in zip(
        items, await reward.score(items, config=config), chosen, strict=True
    ):
        if not isinstance(score, Score):
            raise score
        records.append(to_record(example, trajectory, score, sample=number))
    return records
