"""Measure one policy in one mode: roll every example out, score it, keep every record.

Samples are written as they finish; called again, what is recorded is skipped, so a killed evaluation
costs the samples in flight. A sample that failed at the policy or the environment is not a wrong answer:
it is not recorded, and the evaluation says so and is incomplete until it is done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from vigorl_lib.data.trajectory_records import record_to_trajectory, stored_trajectory
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.errors import PolicyError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.reward.base import Reward, RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.run import rollout_many, solve
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter, read_segments

OnSample = Callable[[int, int, int], None]
"""Called with (done, total, failed)."""


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
) -> list[SampleRecord]:
    """Records of all examples, in their order. The trajectories of the first `keep_trajectories` are kept, too.

    Raises PolicyError (EVALUATION_INCOMPLETE) if infrastructure faults left samples undone.
    """
    done = {record.example_id: record for record in read_records(storage, prefix)}
    images = ImageStore(storage)
    kept = {example.example_id for example in examples[:keep_trajectories]}
    missing = [example for example in examples if example.example_id not in done]
    failed: list[str] = []

    async def sample(example: Example) -> tuple[Example, Trajectory, Score | None]:
        trajectory = await solve(
            stepper,
            example,
            trajectory_id=f"{prefix}/{example.example_id}/0",
            seed_path=(seed, "evaluate", example.example_id),
        )
        if trajectory.stop.is_error:
            return example, trajectory, None
        (score,) = await reward.score([(example, trajectory)], config=reward_config)
        if isinstance(score, Exception):
            raise score
        return example, trajectory, score

    with SegmentWriter(storage, prefix) as writer:
        jobs = (partial(sample, example) for example in missing)
        async for example, trajectory, score in rollout_many(jobs, max_in_flight=max_in_flight):
            if score is None:
                failed.append(f"{example.example_id}: {trajectory.error}")
            else:
                record = to_record(example, trajectory, score)
                done[example.example_id] = record
                entry: dict[str, Any] = {"sample": asdict(record)}
                if example.example_id in kept:
                    scored = replace(
                        trajectory, reward=score.total, reward_parts=dict(score.parts), outcome=score.outcome.value
                    )
                    entry["trajectory"] = stored_trajectory(scored, images)
                writer.append(entry)
            on_sample(len(done) + len(failed), len(examples), len(failed))
    if failed:
        raise PolicyError(
            f"{len(failed)} of {len(examples)} samples failed, first {failed[0]}; run the same command again",
            reason="EVALUATION_INCOMPLETE",
            failed=len(failed),
        )
    return [done[example.example_id] for example in examples]


def read_records(storage: Storage, prefix: str) -> list[SampleRecord]:
    """Sample records under a prefix; of an example recorded twice the first counts."""
    records: dict[str, SampleRecord] = {}
    for entry in read_segments(storage, prefix):
        record = SampleRecord(**entry["sample"])
        records.setdefault(record.example_id, record)
    return list(records.values())


def read_kept_trajectories(storage: Storage, prefix: str, images: ImageStore) -> list[Trajectory]:
    """Trajectories that an evaluation kept, with their images."""
    return [
        record_to_trajectory(entry["trajectory"], images, where=prefix)
        for entry in read_segments(storage, prefix)
        if "trajectory" in entry
    ]


def to_record(example: Example, trajectory: Trajectory, score: Score) -> SampleRecord:
    error, hit = pointing(example, trajectory)
    return SampleRecord(
        example_id=example.example_id,
        correct=score.outcome is RewardOutcome.CORRECT,
        outcome=score.outcome.value,
        stop=trajectory.stop.value,
        answer=trajectory.answer,
        turns=len(trajectory.turns),
        zooms=trajectory.zooms,
        invalid=sum(record.invalid is not None for record in trajectory.turns),
        reward=score.total,
        tags=dict(example.tags),
        point_error_px=error,
        hit=hit,
    )


def pointing(example: Example, trajectory: Trajectory) -> tuple[float | None, bool | None]:
    """Distance of the last zoom, else of the last cited point, to the evidence, and whether it hit.

    A zoom hits if its crop shows the evidence's middle, a mere point if it lies on the evidence. A
    trajectory without any point has no error and did not hit.
    """
    if not example.truth.evidence or trajectory.model_size is None:
        return None, None
    evidence = example.truth.evidence[0]
    frames = FrameMap(example.images[0].size, trajectory.model_size)
    zooms = [record for record in trajectory.turns if record.crop is not None]
    points = [point for record in trajectory.turns for point in record.turn.points]
    if zooms:
        crop, point = zooms[-1].crop, zooms[-1].turn.cited[-1]
        assert crop is not None
        hit = crop.window.contains(evidence.center)
    elif points:
        point = points[-1]
        hit = evidence.contains(frames.point(point, Frame.ORIGINAL))
    else:
        return None, False
    return frames.point(evidence.center, Frame.MODEL).distance(frames.point(point, Frame.MODEL)), hit
