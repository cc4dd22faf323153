"""How much search finds: success of one path, of eight, and of a tree search, with and without zoom, by target size.

    python -m tests.bench.success --examples 200
    python -m tests.bench.success --examples 200 --model runs/quickstart/runs/quickstart/grpo/model

For `success@8` and `MCTS` one right rollout solves a question, which a policy that guesses among four answers manages
often enough; `vote` counts what most rollouts answer and leaves luck out. Beside each share stand the turns that a
question took. Without `--model` the policy is the scripted teacher, which
guesses about a small target that it has not zoomed on. Intervals are 95 % (Wilson).
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.support import RESIZE, TASK
from vigorl_lib.data.datasets_synthetic import first_seed, scene_example
from vigorl_lib.data.synthetic import ANSWERS, make_scene
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.evaluation.metrics import Proportion, wilson
from vigorl_lib.policy.base import Policy
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.policy.scripted import ScriptedTeacher
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.search.journal import read_trees
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import open_storage

PATHS = 8
TREE = SearchConfig(
    simulations=8, children=3, rollouts_per_child=2, max_depth=4, rollout_max_steps=3, dedup_radius_px=3
)
WALKS = SearchConfig(kind="paths", simulations=PATHS, max_depth=4)
REWARD = RewardConfig(answer_weight=1.0, format_weight=0.1, distinct_when="never")


@dataclass(frozen=True)
class Row:
    """One way of looking for the answers: `zoom` or not, what was done, and what it found."""

    zoom: bool
    what: str
    all: Proportion
    small: Proportion
    turns: float
    """Turns sampled per question."""


async def measure(policy: Policy, task: TaskConfig, asked: Sequence[Example], *, zoom: bool) -> list[Row]:
    """Success of the first path, of any of eight and of their vote; of any rollout of a tree and of their vote."""
    walked = await _search(policy, task, asked, WALKS)
    grown = await _search(policy, task, asked, TREE)
    small = {example.example_id for example in asked if example.tags.get("size") == "small"}

    def row(what: str, trees: Sequence[Tree], right: Callable[[Tree], bool], turns: float) -> Row:
        solved = [tree.example_id for tree in trees if right(tree)]
        shares = (wilson(len(solved), len(trees)), wilson(len(small.intersection(solved)), len(small)))
        return Row(zoom, what, *shares, turns)

    walks = sum(tree.cost.turns for tree in walked) / len(walked)
    turns = sum(tree.cost.turns for tree in grown) / len(grown)
    return [
        row("success@1", walked, _first_is_right, walks / PATHS),
        row(f"success@{PATHS}", walked, lambda tree: tree.solved, walks),
        row(f"vote of {PATHS}", walked, _vote_is_right, walks),
        row("MCTS", grown, lambda tree: tree.solved, turns),
        row("MCTS, vote", grown, _vote_is_right, turns),
    ]


def _first_is_right(tree: Tree) -> bool:
    return any(rollout.number == 0 and rollout.value >= 1.0 for rollout in tree.rollouts)


def _vote_is_right(tree: Tree) -> bool:
    """Whether the answer that most rollouts give is right: what one gets without knowing the truth."""
    votes = Counter(rollout.trajectory.answer for rollout in tree.rollouts if rollout.trajectory.answer)
    if not votes:
        return False
    ((winner, _),) = votes.most_common(1)
    return any(rollout.value >= 1.0 for rollout in tree.rollouts if rollout.trajectory.answer == winner)


async def _search(policy: Policy, task: TaskConfig, asked: Sequence[Example], config: SearchConfig) -> list[Tree]:
    environment = ZoomEnvironment()
    search = TreeSearch(Stepper(policy, environment, task), LocalReward(), config, REWARD, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(folder)
        await search_dataset(
            asked, search, policy="measured", storage=storage, prefix="search", on_progress=lambda _: None
        )
        trees = list(read_trees(storage, "search"))
    await environment.close()
    return trees


def held_out_scenes(count: int) -> list[Example]:
    """Scenes of the test split, which no quickstart trains on."""
    first = first_seed(0, "test")
    return [scene_example(make_scene(first + k), f"test-{k}") for k in range(count)]


def teacher(asked: Sequence[Example], mode: str) -> ScriptedTeacher:
    """It reads no small target without a zoom: there it guesses."""
    scripted = ScriptedConfig(root="unused", mode=mode, unseen_error_rate=1 - 1 / len(ANSWERS))  # type: ignore[arg-type]
    config = PolicyConfig(name="scripted-teacher", engine="scripted", model="unused", scripted=scripted)
    return ScriptedTeacher(asked, config, RESIZE)


async def with_teacher(asked: Sequence[Example]) -> list[Row]:
    """Without zoom it searches as the reference does: thoughts with a point, asked one by one."""
    classic = TASK.model_copy(update={"mode": "classic", "prompt": "single_turn"})
    rows = await measure(teacher(asked, "thought_steps"), classic, asked, zoom=False)
    return rows + await measure(teacher(asked, "multi_turn"), TASK, asked, zoom=True)


async def with_model(folder: Path, asked: Sequence[Example]) -> list[Row]:
    """Without zoom it is asked with the single-turn prompt, the only other one that a quickstart's model knows."""
    from vigorl_lib.policy.engines import open_policy

    policy = open_policy(PolicyConfig(name="trained", model=str(folder), max_batch=128, max_context_tokens=1024))
    budget = {"max_turn_tokens": 40, "max_tokens": 240, "observation_text_tokens": 24}
    task = TASK.model_copy(update=budget)
    try:
        rows = await measure(policy, task.model_copy(update={"mode": "single_turn"}), asked, zoom=False)
        return rows + await measure(policy, task, asked, zoom=True)
    finally:
        await policy.close()


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'zoom':<6}{'search':<22}{'all':>22}{'small targets':>24}{'turns':>9}"]
    for row in rows:
        shares = f"{_share(row.all):>22}{_share(row.small):>24}"
        lines.append(f"{'yes' if row.zoom else 'no':<6}{row.what:<22}{shares}{row.turns:>9.1f}")
    return "\n".join(lines)


def _share(share: Proportion) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--model", type=Path, help="a trained checkpoint; without one the scripted teacher")
    options = parser.parse_args()
    asked = held_out_scenes(options.examples)
    work = with_model(options.model, asked) if options.model else with_teacher(asked)
    print(table(asyncio.run(work)))


if __name__ == "__main__":
    main()
