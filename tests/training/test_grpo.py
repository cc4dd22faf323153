"""GRPO with the real producer, policy engine, environment and learner on the tiny model; only the reward is made up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch

from tests.embedded import open_embedded
from tests.training.conftest import DATASET
from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Origin, Trajectory
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.errors import ConfigError, PolicyError, StorageError
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.weights import fetch_weights
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.reward.base import RewardOutcome, Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rollout.wiring import Wired
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import read_step
from vigorl_lib.training.grpo import train_grpo
from vigorl_lib.training.metrics import read_metrics
from vigorl_lib.training.producer import Producer
from vigorl_lib.training.weights import current_weights, published_versions

TASK = TaskConfig(
    family="synthetic_search",
    mode="multi_turn",
    max_turn_tokens=6,
    max_tokens=96,
    zoom=ZoomConfig(window_model_px=14, shown_px=112, max_turns=2, on_invalid="stop"),
)
RUN = "run/grpo"


class EvenTokens:
    """Pays the share of sampled tokens whose id is even: something that any model can learn at once."""

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        scores: list[Score | Exception] = []
        for _, trajectory in items:
            ids = [t for s in trajectory.segments if s.origin is Origin.POLICY for t in s.token_ids or ()]
            share = sum(token % 2 == 0 for token in ids) / len(ids)
            scores.append(Score(share, {"even": share}, RewardOutcome.WRONG))
        return scores

    async def close(self) -> None: ...


def grpo_config(**changes: object) -> GrpoConfig:
    values: dict[str, object] = {
        "init": "tiny",
        "steps": 6,
        "prompts": 3,
        "group_size": 6,
        "checkpoint": {"every": 2},
        "wait_timeout_s": 60.0,
        "engine": {"learning_rate": 1e-2, "freeze": ["visual"], "micro_batch": 32},
    }
    return GrpoConfig.model_validate(values | changes)


def open_policy(storage: Storage) -> TransformersPolicy:
    weights_root = f"{storage.uri}/runs/{RUN}/weights"
    uri = f"{storage.uri}/tiny"
    return open_embedded(
        PolicyConfig(name="student", model=uri, trainable_by=RUN, weights_root=weights_root, device="cpu")
    )


@contextmanager
def producing(config: GrpoConfig, storage: Storage) -> Iterator[list[BaseException]]:
    """A producer with its policy on a thread of its own; what ended it early is in the list."""
    problems: list[BaseException] = []

    async def produce() -> None:
        policy = open_policy(storage)
        images = ImageStore(storage)
        examples = read_dataset(storage, images, DATASET, "train", with_images=False)
        wired = Wired(policy, ZoomEnvironment(), EvenTokens())
        layout = RunLayout(storage, RUN)
        producer = Producer(
            config, TASK, RewardConfig(), wired, examples=examples, layout=layout, images=images, seed=1
        )
        try:
            await producer.run()
        finally:
            await policy.close()

    def work() -> None:
        try:
            asyncio.run(produce())
        except (PolicyError, StorageError) as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield problems
    thread.join()


def train(config: GrpoConfig, storage: Storage, **options: object) -> list[dict[str, float]]:
    with producing(config, storage) as problems:
        train_grpo(config, task=TASK, storage=storage, run_id=RUN, **options)  # type: ignore[arg-type]
    assert not problems
    return read_metrics(RunLayout(storage, RUN))


@pytest.mark.parametrize("lag", [0, 1])
def test_the_reward_rises_and_the_sampler_follows(storage: Storage, lag: int) -> None:
    records = train(grpo_config(max_policy_lag=lag, steps=12), storage)
    rewards = [record["reward"] for record in records]
    assert len(rewards) == 12
    assert sum(rewards[-3:]) / 3 > sum(rewards[:2]) / 2 + 0.15
    assert records[-1]["reward_even"] == records[-1]["reward"]
    assert all(record["tokens_per_s"] > 0 and record["skipped"] == 0 for record in records if record["groups_chosen"])
    if lag == 0:
        # The sampler's log-probs are the learner's: same weights, same places, same arithmetic.
        updates = [record for record in records if record["groups_chosen"]]
        assert max(record["mismatch"] for record in updates) < 1e-4
        assert all(record["clip_share"] == 0 for record in updates)
    layout = RunLayout(storage, RUN)
    current = current_weights(layout)
    assert current is not None
    assert current.version == 12
    assert published_versions(layout) == list(range(12 - lag - 1, 13))
    published = fetch_weights(current.uri)
    final = load_model(f"{storage.uri}/runs/{RUN}/model", device="cpu").model.state_dict()
    assert published.keys() == final.keys()
    assert all(torch.equal(published[name], final[name]) for name in final)


def test_a_learner_that_was_killed_repeats_the_same_steps_on_the_same_groups(storage: Storage) -> None:
    config = grpo_config(steps=5, updates=2, kl_coef=0.01)

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with producing(config, storage) as problems:
        with pytest.raises(KeyboardInterrupt):
            train_grpo(config, task=TASK, storage=storage, run_id=RUN, on_step=stop)
        first = read_metrics(RunLayout(storage, RUN))
        train_grpo(config, task=TASK, storage=storage, run_id=RUN)
    assert not problems
    again = read_metrics(RunLayout(storage, RUN))
    assert len(again) == 5
    # Step 3 was done twice, the second time from the checkpoint of step 2.
    for name in ("loss", "kl", "grad_norm", "reward", "clip_share"):
        assert again[2][name] == pytest.approx(first[2][name], abs=1e-6)
    assert again[-1]["kl"] > 0
    assert again[0]["kl"] < again[-1]["kl"]


def test_a_producer_that_was_ended_goes_on_with_the_same_prompts(storage: Storage) -> None:
    layout = RunLayout(storage, RUN)
    one, two = grpo_config(steps=1), grpo_config(steps=2)
    with producing(one, storage) as problems:
        pass
    before = read_step(layout, 0)
    train(two, storage)
    assert not problems
    assert read_step(layout, 0) == before
    after = read_step(layout, 1)
    assert before is not None
    assert after is not None
    assert min(after.groups) == before.plan.next_position
    prompts = [group.example_id for step in (before, after) for group in step.groups.values()]
    assert len(set(prompts)) == len(prompts)


def test_a_producer_gives_up_on_weights_that_never_come(storage: Storage) -> None:
    with producing(grpo_config(steps=2, wait_timeout_s=0.2), storage) as problems:
        pass
    assert [getattr(problem, "reason", "") for problem in problems] == ["POLICY_TOO_OLD"]


def test_a_learner_gives_up_on_groups_that_never_come(storage: Storage) -> None:
    with pytest.raises(StorageError) as caught:
        train_grpo(grpo_config(wait_timeout_s=0.1), task=TASK, storage=storage, run_id=RUN)
    assert caught.value.reason == "GROUPS_TIMEOUT"


def test_greedy_rollouts_are_refused(storage: Storage) -> None:
    with pytest.raises(ConfigError) as caught:
        train_grpo(grpo_config(), task=TASK.model_copy(update={"temperature": 0.0}), storage=storage, run_id=RUN)
    assert caught.value.reason == "TEMPERATURE_INVALID"
