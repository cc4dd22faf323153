"""Scenes, a teacher and a stepper for tests that measure or show something; all of them the real parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vigorl_lib.data.datasets_synthetic import scene_example
from vigorl_lib.data.synthetic import make_scene
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import PolicyError
from vigorl_lib.evaluation.metrics import SampleRecord
from vigorl_lib.evaluation.run import OnSample, evaluate
from vigorl_lib.models.tiny import RESIZE
from vigorl_lib.policy.base import Generation, Policy, Sampling
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.policy.scripted import ScriptedTeacher
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.shards import ALL, Shard
from vigorl_lib.storage.base import Storage, open_storage

TASK = TaskConfig(
    family="synthetic_search",
    temperature=0.0,
    zoom=ZoomConfig(window_model_px=14, shown_px=112, max_turns=4, on_invalid="stop"),
)
REWARD = RewardConfig(distinct_when="never")
PERFECT = {"error_rate": 0.0, "unseen_error_rate": 0.0, "distractor_rate": 0.0, "point_noise_px": 0.0}


def scenes(count: int) -> list[Example]:
    """Small and large targets in turn, with their pictures."""
    return [scene_example(make_scene(seed), f"scene-{seed:03d}") for seed in range(count)]


def teacher(examples: Sequence[Example], **rates: object) -> ScriptedTeacher:
    scripted = ScriptedConfig.model_validate({"root": "nowhere", **rates})
    config = PolicyConfig(name="scripted-teacher", engine="scripted", model="none", scripted=scripted)
    return ScriptedTeacher(examples, config, RESIZE)


class Watched(ScriptedTeacher):
    """A teacher that counts who asks, and fails for the scenes that it is told to."""

    asked: list[str]
    failing: set[str]

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        name = request_id.split("/")[2]
        self.asked.append(name)
        if name in self.failing:
            raise PolicyError("the engine is gone", reason="ENGINE_FAILED", infrastructure=True)
        return await super().generate(prompt, seeds=seeds, sampling=sampling, request_id=request_id)


def watched(examples: Sequence[Example], failing: Sequence[str] = (), **rates: object) -> Watched:
    policy = teacher(examples, **rates)
    policy.__class__ = Watched
    assert isinstance(policy, Watched)
    policy.asked, policy.failing = [], set(failing)
    return policy


async def measure(
    examples: Sequence[Example],
    policy: Policy,
    storage: Storage | Path,
    *,
    prefix: str = "evaluation",
    mode: str = "multi_turn",
    keep: int = 0,
    samples: int = 1,
    seed: int = 0,
    dataset: str = "",
    shard: Shard = ALL,
    on_sample: OnSample = lambda _: None,
) -> list[SampleRecord]:
    where = open_storage(str(storage)) if isinstance(storage, Path) else storage
    task = TASK.model_copy(update={"mode": mode})
    environment = ZoomEnvironment()
    try:
        return await evaluate(
            examples,
            Stepper(policy, environment, task),
            LocalReward(),
            REWARD,
            storage=where,
            prefix=prefix,
            seed=seed,
            max_in_flight=4,
            keep_trajectories=keep,
            samples=samples,
            dataset=dataset,
            shard=shard,
            on_sample=on_sample,
        )
    finally:
        await environment.close()
