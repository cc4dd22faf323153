"""Measure one policy in one mode: roll every example out, score it, keep every record.

Samples are written as they finish; called again, what is recorded is skipped, so a killed evaluation
costs the samples in flight. A sample that failed at the policy, the environment or the reward is not a
wrong answer: it is not recorded, and the evaluation says so and is incomplete until it is done again.
What was asked, and how, is written beside the records; records made in another way are refused.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from vigorl_lib.data.trajectory_records import record_to_trajectory, stored_trajectory
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import ConfigError, ObjectNotFound, PolicyError, VigorlError
from vigorl_lib.evaluation.behaviours import evidence_of
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.reward.base import Reward, RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.run import rollout_many, solve
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.search.shards import ALL, Shard
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter, read_segments

SETTINGS = "settings.json"
"""Beside the records: how they were made."""


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is. `record` is the sample that was just counted, None for one that failed."""

    done: int
    total: int
    failed: int
    resumed: int
    """Samples that were recorded before this call; they are reported first."""
    record: SampleRecord | None


OnSample = Callable[[EvaluationProgress], None]


class _Claim:
    """Says how the records under a prefix are made, and refuses to add any that are made in another way.

    The first record claims the prefix and not the evaluation, so that one in which every sample failed does not stand
    in the way of the mended one.
    """

    def __init__(self, storage: Storage, prefix: str, settings: dict[str, Any]) -> None:
        self._storage = storage
        self._prefix = prefix
        self._settings = settings
        self._made = False

    def make(self) -> None:
        """Before each record. Raises ConfigError (EVALUATION_DIFFERS)."""
        if not self._made:
            data = json.dumps(self._settings, indent=2).encode()
            if not self._storage.create(f"{self._prefix}/{SETTINGS}", data):
                self.check()
            self._made = True

    def check(self) -> None:
        """Raises ConfigError (EVALUATION_DIFFERS) if the prefix is claimed by other settings."""
        try:
            before = read_settings(self._storage, self._prefix)
        except ObjectNotFound:
            return
        changed = [name for name, value in self._settings.items() if before.get(name) != value]
        if changed:
            raise ConfigError(
                f"{self._prefix} holds records that were made with another {' and '.join(changed)} (see "
                f"{self._prefix}/{SETTINGS}); take another run id, or delete them",
                reason="EVALUATION_DIFFERS",
                changed=",".join(changed),
            )


@dataclass(frozen=True, slots=True)
class _Sampler:
    """Makes the samples of one evaluation and writes them; those of the examples in `kept` with their trajectory."""

    stepper: Stepper
    reward: Reward
    config: RewardConfig
    images: ImageStore
    claim: _Claim
    writer: SegmentWriter
    prefix: str
    seed: int
    kept: frozenset[str]

    async def sample(self, example: Example, number: int) -> SampleRecord | str:
        """The record, or what went wrong."""
        scored = await self._scored(example, number)
        if isinstance(scored, str):
            return f"{example.example_id}: {scored}"
        record = to_record(example, *scored, sample=number)
        # Here and not where results are counted: that would hold up all who wait for a free place.
        await asyncio.to_thread(self._write, record, *scored)
        return record

    async def _scored(self, example: Example, number: int) -> tuple[Trajectory, Score] | str:
        trajectory_id = f"{self.prefix}/{example.example_id}/{number}"
        seed_path = (self.seed, "evaluate", example.example_id, number)
        try:
            example = await _with_images(example, self.images)
            trajectory = await solve(self.stepper, example, trajectory_id=trajectory_id, seed_path=seed_path)
            if trajectory.stop.is_error:
                return trajectory.error or trajectory.stop.value
            (score,) = await self.reward.score([(example, trajectory)], config=self.config)
        except VigorlError as error:
            return f"{error.reason}: {error.message}"
        if isinstance(score, VigorlError):
            return f"{score.reason}: {score.message}"
        if isinstance(score, Exception):
            raise score
        return trajectory, score

    def _write(self, record: SampleRecord, trajectory: Trajectory, score: Score) -> None:
        entry: dict[str, Any] = {"sample": asdict(record)}
        if record.example_id in self.kept:
            parts, outcome = dict(score.parts), score.outcome.value
            whole = replace(trajectory, reward=score.total, reward_parts=parts, outcome=outcome)
            entry["trajectory"] = stored_trajectory(whole, self.images)
        self.claim.make()
        self.writer.append(entry)


async def evaluate(
    examples: Sequence[Example],
    stepper: Stepper,
    reward: Reward,
    reward_config: RewardConfig,
    *,
    storage: Storage,
    prefix: str,
    seed: int,
    max_in_flight: int,
    on_sample: OnSample,
    keep_trajectories: int = 0,
    samples: int = 1,
    dataset: str = "",
    shard: Shard = ALL,
) -> list[SampleRecord]:
    """Records of `samples` answers to each example of `shard`, in the order of the examples.

    The trajectories of the first `keep_trajectories` of all `examples` are kept, too. Processes that work on the
    shards of the same examples share a prefix: their records together are those of one process. Images without bytes
    are loaded from `storage` when their sample begins. `dataset` is `name/split` of where the examples are from, for
    whoever reads the records.

    Raises PolicyError (EVALUATION_INCOMPLETE) if failures left samples undone, ConfigError
    (EVALUATION_DIFFERS) if records under the prefix were made with other settings.
    """
    claim = _Claim(storage, prefix, await _settings(stepper, reward_config, seed, dataset))
    await asyncio.to_thread(claim.check)
    mine = [example for example in examples if shard.holds(example.example_id)]
    asked = [(example, number) for example in mine for number in range(samples)]
    wanted = {(example.example_id, number) for example, number in asked}
    recorded = await asyncio.to_thread(read_records, storage, prefix)
    done = {_key(record): record for record in recorded if _key(record) in wanted}
    missing = [(example, number) for example, number in asked if (example.example_id, number) not in done]
    failed: list[str] = []
    resumed = list(done.values())
    for count, known in enumerate(resumed, start=1):
        on_sample(EvaluationProgress(count, len(asked), 0, len(resumed), known))

    writer = await asyncio.to_thread(SegmentWriter, storage, prefix)
    kept = frozenset(example.example_id for example in examples[:keep_trajectories])
    sampler = _Sampler(stepper, reward, reward_config, ImageStore(storage), claim, writer, prefix, seed, kept)
    try:
        jobs = (partial(sampler.sample, *question) for question in missing)
        async with aclosing(rollout_many(jobs, max_in_flight=max_in_flight)) as results:
            async for result in results:
                record = None
                if isinstance(result, str):
                    failed.append(result)
                else:
                    done[_key(result)] = record = result
                count = len(done) + len(failed)
                on_sample(EvaluationProgress(count, len(asked), len(failed), len(resumed), record))
    finally:
        await asyncio.to_thread(writer.close)
    if failed:
        raise PolicyError(
            f"{len(failed)} of {len(asked)} samples failed, first {failed[0]}; mend that example if its "
            "data is at fault, and run the same command again",
            reason="EVALUATION_INCOMPLETE",
            failed=len(failed),
        )
    return [done[example.example_id, number] for example, number in asked]


def _key(record: SampleRecord) -> tuple[str, int]:
    return record.example_id, record.sample


async def _with_images(example: Example, images: ImageStore) -> Example:
    if all(image.data is not None for image in example.images):
        return example
    loaded = await asyncio.to_thread(lambda: tuple(map(images.load, example.images)))
    return replace(example, images=loaded)


async def _settings(stepper: Stepper, reward: RewardConfig, seed: int, dataset: str) -> dict[str, Any]:
    policy = await stepper.info()
    return {
        "dataset": dataset,
        "task": stepper.task.model_dump(mode="json"),
        "prompt_sha256": stepper.prompt.sha256,
        "reward": reward.model_dump(mode="json"),
        "policy": {
            "name": policy.name,
            "engine": policy.engine,
            "model": policy.model,
            "revision": policy.revision,
            "version": policy.version,
        },
        "resize": asdict(policy.resize),
        "seed": seed,
    }


def read_settings(storage: Storage, prefix: str) -> dict[str, Any]:
    """How the samples under a prefix were asked. Raises ObjectNotFound where there are none."""
    settings: dict[str, Any] = json.loads(storage.read(f"{prefix}/{SETTINGS}"))
    return settings


def flat_settings(settings: Mapping[str, Any], lead: str = "") -> dict[str, str]:
    """Every setting as text by its dotted name, such as `task.zoom.window_model_px`."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{lead}{name}.")
        else:
            flat[f"{lead}{name}"] = "" if value is None else str(value)
    return flat


def read_records(storage: Storage, prefix: str) -> list[SampleRecord]:
    """Sample records under a prefix by example id and number; of a sample recorded twice the first counts."""
    records: dict[tuple[str, int], SampleRecord] = {}
    for entry in read_segments(storage, prefix):
        record = SampleRecord(**entry["sample"])
        records.setdefault(_key(record), record)
    return sorted(records.values(), key=_key)


def read_kept_trajectories(storage: Storage, prefix: str) -> list[Trajectory]:
    """Trajectories that an evaluation kept; their images are in the image store."""
    return [
        record_to_trajectory(entry["trajectory"], where=prefix)
        for entry in read_segments(storage, prefix)
        if "trajectory" in entry
    ]


def to_record(example: Example, trajectory: Trajectory, score: Score, *, sample: int = 0) -> SampleRecord:
    error, hit = pointing(example, trajectory)
    return SampleRecord(
        example_id=example.example_id,
        correct=score.outcome is RewardOutcome.CORRECT,
        outcome=score.outcome.value,
        stop=trajectory.stop.value,
        answer=trajectory.answer,
        turns=len(trajectory.turns),
        zooms=trajectory.zooms,
        reward=score.total,
        invalid=dict(Counter(record.invalid.value for record in trajectory.turns if record.invalid is not None)),
        tags=dict(example.tags),
        point_error_px=error,
        hit=hit,
        sample=sample,
        image=example.images[0].sha256 if example.images else "",
        judged_by=score.judged_by,
    )


def pointing(example: Example, trajectory: Trajectory) -> tuple[float | None, bool | None]:
    """Distance of the last zoom, else of the last cited point, to the nearest evidence, and whether it hit some.

    A zoom hits if its crop shows the middle of a region that shows the answer, a mere point if it lies on one. A
    trajectory without any point has no error and did not hit.
    """
    evidence = evidence_of(example)
    if not evidence or trajectory.model_size is None:
        return None, None
    frames = FrameMap(example.images[0].size, trajectory.model_size)
    zooms = [record for record in trajectory.turns if record.crop is not None]
    points = [point for record in trajectory.turns for point in record.turn.points]
    if zooms:
        crop, point = zooms[-1].crop, zooms[-1].turn.cited[-1]
        assert crop is not None
        hit = any(crop.window.contains(box.center) for box in evidence)
    elif points:
        point = points[-1]
        hit = any(box.contains(frames.point(point, Frame.ORIGINAL)) for box in evidence)
    else:
        return None, False
    said = frames.point(point, Frame.MODEL)
    return min(frames.point(box.center, Frame.MODEL).distance(said) for box in evidence), hit
