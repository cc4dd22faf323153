from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.search.support import (
    REWARD,
    TASK,
    WrittenPolicy,
    answer,
    example,
    recorder,
    said,
    scenes,
    search_one,
    searching,
    teacher,
    zoom,
)
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Origin, Segment, StopReason, Trajectory
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX
from vigorl_lib.errors import PolicyError, RewardError, VigorlError
from vigorl_lib.reward.base import Score
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore


def explore(prompt: Sequence[Segment], index: int) -> str:
    """Zooms somewhere new for two turns, then answers; right only along the first child."""
    depth = len(said(prompt))
    if depth < 2:
        return zoom(10 + 30 * index, 10 + 30 * depth)
    return answer("pink" if "(10, 10)" in said(prompt)[0] else "cyan")


async def test_one_request_asks_for_all_children_and_each_rollout_goes_its_own_way() -> None:
    policy = WrittenPolicy(explore)
    tree, _ = await search_one(searching(policy, SearchConfig(simulations=1, children=3, rollouts_per_child=2)))
    assert policy.requests[0][1] == 3
    assert {n for _, n in policy.requests[1:]} == {1}
    assert len(tree.root.children) == 3
    assert len(tree.rollouts) == 6
    assert [child.value for child in tree.root.children] == [1.0, 0.0, 0.0]
    assert tree.end == "budget"


async def test_children_see_the_crop_of_the_zoom_that_they_follow_and_always_the_image() -> None:
    policy = WrittenPolicy(explore)
    tree, _ = await search_one(searching(policy, SearchConfig(simulations=2, children=2, rollouts_per_child=1)))
    for prompt, _ in policy.requests:
        crops = [image for segment in prompt if segment.origin is Origin.OBSERVATION for image in segment.images]
        assert len(crops) == len(said(prompt))
        assert prompt[0].images == example().images
    deep = next(node for node in tree.nodes if node.prefix.depth == 2)
    assert deep.parent is tree.nodes[1]


async def test_the_same_seed_writes_the_same_journal_byte_for_byte(tmp_path: Path) -> None:
    images = ImageStore(FolderStorage(tmp_path))
    (scene,) = scenes(images, 1)
    config = SearchConfig(simulations=6, children=3, rollouts_per_child=2, dedup_radius_px=3)
    journals = []
    for _ in range(2):
        _, records = await search_one(searching(teacher([scene], tmp_path), config, images=images), scene)
        journals.append([json.dumps(record) for record in records])
    assert journals[0] == journals[1]
    assert len(journals[0]) == 8, "root, six simulations, end"


async def test_a_child_that_looks_where_its_path_or_a_sibling_looked_is_dropped() -> None:
    places = [(10, 10), (13, 10), (60, 60)]

    def near(prompt: Sequence[Segment], index: int) -> str:
        return zoom(*places[index]) if len(said(prompt)) < 2 else answer("cyan")

    config = SearchConfig(simulations=2, children=3, rollouts_per_child=1, dedup_radius_px=5)
    tree, _ = await search_one(searching(WrittenPolicy(near), config))
    zoomed = [node.prefix.record.turn.action.point.x for node in tree.nodes[1:] if node.prefix.record]  # type: ignore[union-attr]
    assert zoomed == [10, 60, 60], "two at the root; under the first only what is new"


async def test_an_answer_is_never_dropped_as_a_repetition() -> None:
    config = SearchConfig(simulations=1, children=3)
    tree, _ = await search_one(searching(WrittenPolicy(lambda *_: answer("pink")), config))
    assert len(tree.root.children) == 3


async def test_a_terminal_child_is_scored_once_however_often_it_is_selected() -> None:
    scored: list[Trajectory] = []

    class Counting(LocalReward):
        async def score(
            self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
        ) -> list[Score | Exception]:
            scored.extend(trajectory for _, trajectory in items)
            return await super().score(items, config=config)

    policy = WrittenPolicy(lambda *_: answer("pink"))
    tree, _ = await search_one(searching(policy, SearchConfig(simulations=5, children=1), reward=Counting()))
    assert len(scored) == len(policy.requests) == 1
    assert (tree.root.visit_count, tree.root.value) == (5, 1.0)


async def test_an_expansion_without_a_new_child_exhausts_its_node_and_not_the_budget() -> None:
    policy = WrittenPolicy(lambda prompt, _: zoom(10, 10) if len(said(prompt)) < 3 else answer("cyan"))
    tree, _ = await search_one(searching(policy, SearchConfig(simulations=9, children=2, dedup_radius_px=5)))
    assert tree.end == "exhausted"
    assert tree.simulations == 2
    assert tree.nodes[1].exhausted


async def test_depth_is_bounded_and_costs_no_request_beyond() -> None:
    policy = WrittenPolicy(explore)
    config = SearchConfig(simulations=50, children=1, rollouts_per_child=1, max_depth=2)
    tree, _ = await search_one(searching(policy, config))
    assert max(node.prefix.depth for node in tree.nodes) == 2
    assert max(len(rollout.trajectory.turns) for rollout in tree.rollouts) == 2
    assert tree.end == "exhausted"
    assert max(len(said(prompt)) for prompt, _ in policy.requests) == 1


async def test_a_task_that_forces_an_answer_gets_one_on_the_last_permitted_turn() -> None:
    def forced(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(5 + 20 * len(said(prompt)), 9)

    task = TASK.model_copy(update={"force_answer": True})
    config = SearchConfig(simulations=1, children=1, rollouts_per_child=1, rollout_max_steps=1)
    tree, _ = await search_one(searching(WrittenPolicy(forced), config, task=task))
    (rollout,) = tree.rollouts
    assert rollout.trajectory.stop is StopReason.ANSWERED
    assert rollout.trajectory.turns[-1].text.startswith(FORCED_ANSWER_PREFIX)
    assert rollout.value == 1.0


async def test_a_solved_tree_stops_early_if_it_is_told_to() -> None:
    config = SearchConfig(simulations=5, children=3, rollouts_per_child=1, stop_when_solved=True)
    tree, _ = await search_one(searching(WrittenPolicy(explore), config))
    assert (tree.end, tree.simulations) == ("solved", 1)


async def test_a_rollout_that_runs_out_of_steps_counts_as_wrong() -> None:
    config = SearchConfig(simulations=1, children=1, rollout_max_steps=1, rollouts_per_child=1)
    tree, _ = await search_one(searching(WrittenPolicy(explore), config))
    assert tree.rollouts[0].trajectory.stop is StopReason.MAX_TURNS
    assert (tree.root.visit_count, tree.root.value) == (1, 0.0)


def failing(error: VigorlError, depth: int, requested: int) -> WrittenPolicy:
    """Fails a request for so many continuations at one depth."""

    def write(prompt: Sequence[Segment], index: int) -> str:
        if len(said(prompt)) == depth and policy.requests[-1][1] == requested:
            raise error
        return explore(prompt, index)

    policy = WrittenPolicy(write)
    return policy


async def test_a_refused_root_ends_the_tree_with_its_reason() -> None:
    refusal = PolicyError("no such scene", reason="SCENE_UNKNOWN")
    tree, records = await search_one(searching(failing(refusal, 0, 3), SearchConfig(children=3)))
    assert (tree.end, tree.error) == ("error", "SCENE_UNKNOWN: no such scene")
    assert records[-1]["error"] == tree.error


async def test_a_refused_expansion_deeper_down_exhausts_that_node_alone() -> None:
    refusal = PolicyError("no room", reason="CONTEXT_OVERFLOW")
    policy = failing(refusal, 1, 3)
    tree, _ = await search_one(searching(policy, SearchConfig(simulations=9, children=3, rollouts_per_child=1)))
    assert tree.end == "exhausted"
    assert not tree.error
    assert [node.error for node in tree.root.children] == ["CONTEXT_OVERFLOW: no room"] * 3


async def test_a_policy_that_is_away_leaves_the_tree_to_the_next_search() -> None:
    away = PolicyError("unreachable", reason="UNAVAILABLE", infrastructure=True)
    config = SearchConfig(simulations=3, children=3, rollouts_per_child=1)
    broken = searching(failing(away, 1, 3), config)
    tree, records = await search_one(broken)
    assert (tree.end, tree.error) == ("", "UNAVAILABLE: unreachable")
    assert [record["kind"] for record in records] == ["root", "simulation"]

    more, journal = recorder()

    whole, expected = await search_one(searching(WrittenPolicy(explore), config))
    await searching(WrittenPolicy(explore), config).search(example(), tree, journal)
    assert (tree.end, tree.error) == ("budget", "")
    assert [*records, *more] == expected
    assert tree.root.value == whole.root.value


async def test_a_rollout_that_fails_is_recorded_and_not_counted() -> None:
    failure = PolicyError("engine gone", reason="ENGINE_FAILED")
    config = SearchConfig(simulations=1, children=2, rollouts_per_child=1)
    tree, _ = await search_one(searching(failing(failure, 1, 1), config))
    assert [r.trajectory.error for r in tree.rollouts] == ["ENGINE_FAILED: engine gone"] * 2
    assert tree.root.visit_count == 0
    assert tree.end == "budget"


async def test_a_trajectory_that_cannot_be_scored_keeps_the_reason_and_is_not_counted() -> None:
    class Unreadable(LocalReward):
        async def score(
            self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
        ) -> list[Score | Exception]:
            assert config == REWARD
            return [RewardError("no verdict", reason="JUDGE_UNREADABLE") for _ in items]

    tree, _ = await search_one(
        searching(WrittenPolicy(explore), SearchConfig(simulations=1, children=1), reward=Unreadable())
    )
    assert {r.trajectory.error for r in tree.rollouts} == {"JUDGE_UNREADABLE: no verdict"}
    assert tree.root.visit_count == 0


async def test_our_own_mistake_is_not_taken_for_a_failed_tree() -> None:
    def broken(prompt: Sequence[Segment], index: int) -> str:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await search_one(searching(WrittenPolicy(broken), SearchConfig()))
