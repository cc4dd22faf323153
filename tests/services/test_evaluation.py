"""The evaluation service over the real policy, environment and reward services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

from tests.services.conftest import DATASET, TASK, serving
from vigorl_lib.errors import ConfigError, DataError, VigorlError
from vigorl_lib.evaluation.client import EvaluationClient
from vigorl_lib.evaluation.convert import Metric
from vigorl_lib.evaluation.metrics import SampleRecord, accuracy, summarize
from vigorl_lib.evaluation.run import EvaluationProgress, read_kept_trajectories, read_records
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.config import ClientConfig
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_services.environment.__main__ import EnvironmentServiceConfig
from vigorl_services.environment.__main__ import build as build_environment
from vigorl_services.evaluation.__main__ import EvaluationServiceConfig
from vigorl_services.evaluation.__main__ import build as build_evaluation
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.__main__ import build as build_policy
from vigorl_services.reward.__main__ import RewardServiceConfig
from vigorl_services.reward.__main__ import build as build_reward

TEACHER = "scripted-teacher"
REWARD = RewardConfig(distinct_when="never")


@pytest.fixture
async def client(tiny_folder: Path, root: Path) -> AsyncIterator[EvaluationClient]:
    scripted = ScriptedConfig(root=str(root), dataset=DATASET)
    policy = PolicyConfig(name=TEACHER, engine="scripted", model=str(tiny_folder), scripted=scripted)
    async with AsyncExitStack() as stack:

        async def start(build: object, config: object) -> str:
            return await stack.enter_async_context(serving(build, config))  # type: ignore[arg-type]

        services = ServicesConfig(
            policies={
                TEACHER: await start(build_policy, PolicyServiceConfig(policy=policy, root=str(root))),
                "absent": "127.0.0.1:1",
            },
            client=ClientConfig(quick_timeout_s=2.0),
            environment=await start(build_environment, EnvironmentServiceConfig(root=str(root))),
            reward=await start(build_reward, RewardServiceConfig()),
        )
        address = await start(build_evaluation, EvaluationServiceConfig(root=str(root), services=services))
        client = EvaluationClient(address)
        yield client
        await client.close()


async def evaluated(
    client: EvaluationClient,
    run_id: str,
    *,
    policy: str = TEACHER,
    dataset: str = DATASET,
    shard: tuple[int, int] = (0, 1),
) -> tuple[list[EvaluationProgress], tuple[Metric, ...]]:
    steps: list[EvaluationProgress] = []
    figures: tuple[Metric, ...] = ()
    async with aclosing(
        client.evaluate(
            run_id=run_id,
            dataset=dataset,
            split="train",
            policy=policy,
            task=TASK,
            reward=REWARD,
            keep_trajectories=2,
            shard_index=shard[0],
            shard_count=shard[1],
        )
    ) as stream:
        async for step in stream:
            if isinstance(step, EvaluationProgress):
                steps.append(step)
            else:
                figures = step
    return steps, figures


def stored(root: Path, run_id: str) -> list[SampleRecord]:
    storage = open_storage(str(root))
    return read_records(storage, RunLayout(storage, run_id).evaluation(TEACHER, TASK.mode))


async def test_every_sample_is_streamed_and_recorded_and_the_figures_are_those_of_the_records(
    client: EvaluationClient, root: Path
) -> None:
    steps, figures = await evaluated(client, "eval-whole")
    streamed = {step.record.example_id: step.record for step in steps if step.record is not None}
    kept = {record.example_id: record for record in stored(root, "eval-whole")}
    assert streamed == kept
    assert len(kept) == 4
    assert [step.done for step in steps] == [1, 2, 3, 4]
    by_name = {metric.name: metric for metric in figures}
    right = accuracy(list(kept.values()))
    assert (by_name["accuracy"].value, by_name["accuracy"].low, by_name["accuracy"].high) == (
        right.value,
        right.low,
        right.high,
    )
    assert by_name["zoom_rate"].value == summarize(list(kept.values()))["zoom_rate"]
    assert by_name["zoom_rate"].low is None
    storage = open_storage(str(root))
    prefix = RunLayout(storage, "eval-whole").evaluation(TEACHER, TASK.mode)
    assert len(read_kept_trajectories(storage, prefix)) == 2


async def test_called_again_it_streams_what_is_recorded_and_asks_nothing(client: EvaluationClient, root: Path) -> None:
    await evaluated(client, "eval-again")
    before = stored(root, "eval-again")
    steps, _ = await evaluated(client, "eval-again")
    assert [step.resumed for step in steps] == [4, 4, 4, 4]
    assert stored(root, "eval-again") == before


async def test_shards_together_make_the_records_of_one_process(client: EvaluationClient, root: Path) -> None:
    whole, _ = await evaluated(client, "eval-one")
    for index in range(3):
        steps, _ = await evaluated(client, "eval-three", shard=(index, 3))
        assert len(steps) == (2, 1, 1)[index]

    def by_id(records: list[SampleRecord]) -> list[SampleRecord]:
        return sorted(records, key=lambda record: record.example_id)

    assert by_id(stored(root, "eval-three")) == by_id([step.record for step in whole if step.record is not None])


async def test_what_cannot_be_measured_is_refused_with_its_reason(client: EvaluationClient) -> None:
    with pytest.raises(ConfigError, match="no address for 'nobody'"):
        await evaluated(client, "eval-nobody", policy="nobody")
    with pytest.raises(DataError, match="shard_index"):
        await evaluated(client, "eval-shard", shard=(3, 3))
    with pytest.raises(DataError, match="no-such-set"):
        await evaluated(client, "eval-data", dataset="no-such-set")
    with pytest.raises(ConfigError, match="run id"):
        await evaluated(client, "../outside")


async def test_records_made_with_other_settings_are_not_mixed_in(client: EvaluationClient) -> None:
    await evaluated(client, "eval-differs")
    other = TASK.model_copy(update={"temperature": 0.5})
    stream = client.evaluate(
        run_id="eval-differs", dataset=DATASET, split="train", policy=TEACHER, task=other, reward=REWARD
    )
    with pytest.raises(ConfigError, match="another task"):
        async for _ in stream:
            pass


async def test_an_absent_policy_is_an_outage_not_a_wrong_answer(client: EvaluationClient) -> None:
    with pytest.raises(VigorlError) as failure:
        await evaluated(client, "eval-absent", policy="absent")
    assert failure.value.infrastructure
