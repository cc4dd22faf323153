"""Single paths: linear teacher traces, best of n, the cold-start filter, all with the tree's journal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.search.support import WrittenPolicy, answer, example, recorder, scenes, search_one, searching, teacher
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import read_trees
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.folder import FolderStorage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.segments import SegmentWriter

PATHS = SearchConfig(kind="paths", simulations=4)


async def test_every_path_goes_its_own_way_from_the_question(tmp_path: Path) -> None:
    images = ImageStore(FolderStorage(tmp_path))
    (scene,) = scenes(images, 1)
    config = PATHS.model_copy(update={"simulations": 16})
    tree, _ = await search_one(searching(teacher([scene], tmp_path), config, images=images), scene)
    assert [r.trajectory.trajectory_id for r in tree.rollouts] == [f"t/s000/0.{k}" for k in range(16)]
    assert len({tuple(s.text for s in r.trajectory.segments) for r in tree.rollouts}) > 3
    assert len(tree.nodes) == 1
    assert (tree.end, tree.root.visit_count) == ("budget", 16)
    assert tree.root.value == sum(r.value for r in tree.rollouts) / 16
    assert tree.cost.turns == sum(len(r.trajectory.turns) for r in tree.rollouts)
    together, _ = await search_one(
        searching(teacher([scene], tmp_path), config.model_copy(update={"simulations_in_flight": 5}), images=images),
        scene,
    )
    assert sorted(together.rollouts, key=lambda rollout: rollout.number) == tree.rollouts


async def test_paths_that_were_walked_are_not_walked_again(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    (scene,) = scenes(ImageStore(storage), 1)
    whole, records = await search_one(searching(teacher([scene], tmp_path), PATHS, images=ImageStore(storage)), scene)
    # The first of two that were in flight was lost: what is there is the root and path 1.
    with SegmentWriter(storage, "search/0") as writer:
        for record in (records[0], records[2] | {"previous": records[0]["id"]}):
            writer.append(record)
    (read,) = read_trees(storage, "search/0", ImageStore(storage))
    _, journal = recorder()
    tree = await searching(teacher([scene], tmp_path), PATHS).search(scene, read, journal)
    assert sorted(r.number for r in tree.rollouts) == [0, 1, 2, 3]
    texts = [[s.text for s in one.trajectory.segments] for one in sorted(tree.rollouts, key=lambda r: r.number)]
    assert texts == [[s.text for s in one.trajectory.segments] for one in whole.rollouts]


async def test_the_cold_start_filter_takes_the_first_right_path_that_is_long_enough() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        number = len(policy.requests) - 1
        return answer("pink") if number else answer("cyan")

    policy = WrittenPolicy(write)
    tree, _ = await search_one(searching(policy, PATHS.model_copy(update={"stop_when_solved": True})))
    assert (tree.end, [r.value for r in tree.rollouts]) == ("solved", [0.0, 1.0])
    long_enough = PATHS.model_copy(update={"stop_when_solved": True, "min_path_turns": 2})
    tree, _ = await search_one(searching(WrittenPolicy(lambda *_: answer("pink")), long_enough))
    assert (tree.end, [r.value for r in tree.rollouts]) == ("budget", [0.0] * 4)


async def test_a_policy_that_is_away_leaves_the_paths_to_the_next_call() -> None:
    def away(prompt: Sequence[Segment], index: int) -> str:
        raise PolicyError("unreachable", reason="UNAVAILABLE", infrastructure=True)

    tree, records = await search_one(searching(WrittenPolicy(away), PATHS))
    assert (tree.end, tree.error) == ("", "UNAVAILABLE: unreachable")
    assert [record["kind"] for record in records] == ["root"]
    _, journal = recorder()
    done = await searching(WrittenPolicy(lambda *_: answer("pink")), PATHS).search(example(), tree, journal)
    assert isinstance(done, Tree)
    assert done.end == "budget"
