"""The search service over the real policy, environment and reward services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.rpc.fakes import FakePolicy, served
from tests.services.conftest import DATASET, TASK, serving
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.grammar import Answer, render_turn
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import StopReason, Trajectory, TurnRecord
from vigorl_lib.errors import ConfigError, DataError
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.rollout.task import FewShotExample
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.search.client import SearchClient, TreeProgress
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import read_trees
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_services.environment.__main__ import EnvironmentServiceConfig
from vigorl_services.environment.__main__ import build as build_environment
from vigorl_services.policy.__main__ import PolicyServiceConfig
from vigorl_services.policy.__main__ import build as build_policy
from vigorl_services.reward.__main__ import RewardServiceConfig
from vigorl_services.reward.__main__ import build as build_reward
from vigorl_services.search.__main__ import SearchServiceConfig
from vigorl_services.search.__main__ import build as build_search

TEACHER = "scripted-teacher"
SEARCH = SearchConfig(simulations=2, children=2, rollouts_per_child=1)


@pytest.fixture
async def client(tiny_folder: Path, root: Path) -> AsyncIterator[SearchClient]:
    """All four services; the policy is the scripted teacher."""
    scripted = ScriptedConfig(root=str(root), dataset=DATASET)
    policy = PolicyConfig(name=TEACHER, engine="scripted", model=str(tiny_folder), scripted=scripted)
    async with AsyncExitStack() as stack:
        services = ServicesConfig(
            policies={
                TEACHER: await stack.enter_async_context(
                    serving(build_policy, PolicyServiceConfig(policy=policy, root=str(root)))
                )
            },
            environment=await stack.enter_async_context(
                serving(build_environment, EnvironmentServiceConfig(root=str(root)))
            ),
            reward=await stack.enter_async_context(serving(build_reward, RewardServiceConfig())),
        )
        address = await stack.enter_async_context(
            serving(build_search, SearchServiceConfig(root=str(root), services=services))
        )
        client = SearchClient(address)
        yield client
        await client.close()


async def test_solve_streams_the_turns_and_then_the_trajectory(client: SearchClient, examples: list[Example]) -> None:
    image = examples[0].images[0]
    for seed in range(4):
        events = [
            event async for event in client.solve(image, examples[0].question, policy=TEACHER, task=TASK, seed=seed)
        ]
        *turns, trajectory = events
        assert isinstance(trajectory, Trajectory)
        assert trajectory.stop is StopReason.ANSWERED
        assert trajectory.turns == tuple(turns)
        assert trajectory.policy == TEACHER
        assert trajectory.segments[0].images[0].data == image.data
        for turn in turns:
            assert isinstance(turn, TurnRecord)
            assert (turn.crop is None) == (turn.crop_image is None)
            assert turn.crop_image is None or turn.crop_image.data


async def test_search_streams_progress_and_then_a_whole_tree(client: SearchClient, examples: list[Example]) -> None:
    events = [
        event
        async for event in client.search(
            examples[0], policy=TEACHER, task=TASK, reward=RewardConfig(), search=SEARCH, seed=3
        )
    ]
    tree = events[-1]
    assert isinstance(tree, Tree)
    assert all(isinstance(event, TreeProgress) for event in events[:-1])
    assert tree.end
    assert not tree.error
    assert tree.simulations == SEARCH.simulations
    assert tree.root.visit_count == sum(child.visit_count for child in tree.root.children)
    assert all(node.prefix.parent is (node.parent.prefix if node.parent else None) for node in tree.nodes)


async def test_a_data_set_is_searched_once_and_then_skipped(
    client: SearchClient, root: Path, examples: list[Example]
) -> None:
    async def run(shard: int, search: SearchConfig = SEARCH) -> list[int]:
        progress = [
            p
            async for p in client.search_dataset(
                run_id="run",
                dataset=DATASET,
                split="train",
                policy=TEACHER,
                task=TASK,
                reward=RewardConfig(),
                search=search,
                shard_index=shard,
                shard_count=2,
            )
        ]
        assert (progress[-1].done, progress[-1].total, progress[-1].failed) == (2, 2, 0)
        return [p.resumed for p in progress]

    assert set(await run(0)) == {0}
    assert await run(0) == [2], "all of it was done before"
    assert set(await run(1)) == {0}
    storage = open_storage(str(root))
    found = {
        tree.example_id for shard in (0, 1) for tree in read_trees(storage, RunLayout(storage, "run").search(shard))
    }
    assert found == {example.example_id for example in examples}
    with pytest.raises(ConfigError, match=r"search.simulations was 2, is 3") as refused:
        await run(0, SEARCH.model_copy(update={"simulations": 3}))
    assert refused.value.reason == "SEARCH_DIFFERS"


async def test_single_paths_and_classic_steps_go_through_the_service(
    client: SearchClient, root: Path, examples: list[Example]
) -> None:
    shot = FewShotExample(
        image=examples[0].images[0].sha256,
        question="And here?",
        replies=(render_turn("There (5, 5).", Answer("pink")),),
    )
    task = TASK.model_copy(update={"few_shot": (shot,), "min_steps_from": 2, "min_steps_to": 3})
    config = SEARCH.model_copy(update={"kind": "paths", "simulations": 3, "simulations_in_flight": 3})
    *_, tree = [
        event
        async for event in client.search(
            examples[1], policy=TEACHER, task=task, reward=RewardConfig(), search=config, seed=3
        )
    ]
    assert isinstance(tree, Tree)
    assert [rollout.number for rollout in sorted(tree.rollouts, key=lambda r: r.number)] == [0, 1, 2]
    assert tree.cost.turns >= 3
    system, shown, *_, asked = tree.root.prefix.segments[0].messages
    assert "at least" in system.text
    assert shown.images[0].sha256 == shot.image
    assert asked.images[0].sha256 == examples[1].images[0].sha256


async def test_bad_requests_name_what_to_change(client: SearchClient, examples: list[Example]) -> None:
    image = examples[0].images[0]
    bad_image = Image("0" * 64, "image/png", image.size, b"no image")
    with pytest.raises(DataError) as caught:
        await anext(client.solve(bad_image, "?", policy=TEACHER, task=TASK))
    assert caught.value.reason == "IMAGE_UNREADABLE"
    with pytest.raises(ConfigError) as unknown:
        await anext(client.solve(image, "?", policy="nobody", task=TASK))
    assert unknown.value.reason == "POLICY_UNKNOWN"
    with pytest.raises(DataError, match="question"):
        await anext(client.solve(image, "", policy=TEACHER, task=TASK))
    with pytest.raises(ConfigError, match=r"task\.mode"):
        await anext(client.solve(image, "?", policy=TEACHER, task=TASK.model_copy(update={"mode": "nonsense"})))


async def test_a_client_that_leaves_ends_the_work_of_its_question(root: Path, examples: list[Example]) -> None:
    policy = FakePolicy(release=asyncio.Event())
    async with served(policy) as address:
        config = SearchServiceConfig(root=str(root), services=ServicesConfig(policies={"fake": address}))
        async with serving(build_search, config) as search_address:
            client = SearchClient(search_address)
            events = client.solve(examples[0].images[0], "?", policy="fake", task=TASK)
            first = asyncio.create_task(anext(events))
            await asyncio.wait_for(policy.entered.wait(), 5)
            first.cancel()
            await asyncio.wait_for(policy.cancelled.wait(), 5)
            assert policy.cancelled.is_set()
            await client.close()
