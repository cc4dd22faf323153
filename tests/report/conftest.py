"""A small run in a folder, made by the real parts: scenes, two teachers measured, a search, chains, metrics."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from tests.evaluation.support import PERFECT, REWARD, TASK, measure, scenes, teacher
from vigorl_lib.cli.common import resolve
from vigorl_lib.cli.linearize import linearize_run
from vigorl_lib.data.datasets import write_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.jobs.stages import StageRecord
from vigorl_lib.recipes.schema import Recipe
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import search_dataset
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.metrics import MetricsWriter

STAGES = (StageRecord("search", 0, 12.0, 20.0), StageRecord("grpo", 1, 48.0, 51.5))
POLICIES = ("captions", "mix", "grpo")
"""The first one was never measured."""
HOSTILE = 'What is <b onclick="x">&amp;</b> <script>alert(1)</script>?'


@dataclass(frozen=True, slots=True)
class Run:
    storage: Storage
    recipe: Recipe
    examples: list[Example]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Read it, write nothing but reports."""
    root = tmp_path_factory.mktemp("run")
    storage = open_storage(str(root))
    overrides = (f"root={root}", "linearize.validation_share=0.5", "linearize.max_corrected_per_example=1")
    recipe = resolve("quickstart-search", overrides)
    examples = scenes(10)
    write_dataset(storage, ImageStore(storage), "visual-search", "train", examples[:4])
    write_dataset(storage, ImageStore(storage), "visual-search", "test", examples[4:])
    asyncio.run(_fill(storage, recipe, examples))
    linearize_run(recipe, "zoom")
    for stage, names in (("sft", ("loss",)), ("grpo", ("loss", "reward", "outcome_correct", "zoom_rate"))):
        with MetricsWriter(RunLayout(storage, f"quickstart/{stage}")) as metrics:
            for step in range(1, 9):
                metrics.write(step, dict.fromkeys(names, 0.1 * step))
    return Run(storage, recipe, examples)


async def _fill(storage: Storage, recipe: Recipe, examples: list[Example]) -> None:
    train, test = examples[:4], examples[4:]
    guesses = {"direct_rate": 1.0, "unseen_error_rate": 1.0, "error_rate": 0.3}
    for name, rates in (("mix", guesses), ("grpo", {**PERFECT, "direct_rate": 0.0})):
        for mode in ("single_turn", "multi_turn"):
            policy = teacher(test, **rates, mode=mode)
            prefix = f"runs/quickstart/evaluation/{name}/{mode}"
            await measure(test, policy, storage, prefix=prefix, mode=mode, keep=len(test))
    environment, images = ZoomEnvironment(), ImageStore(storage)
    stepper = Stepper(teacher(train, distractor_rate=0.6), environment, TASK.model_copy(update={"temperature": 1.0}))
    config = SearchConfig(simulations=4, children=2, rollouts_per_child=2, max_depth=4, dedup_radius_px=3)
    search = TreeSearch(stepper, LocalReward(), config, REWARD, seed=0, images=images)
    await search_dataset(
        train,
        search,
        policy="scripted-teacher",
        storage=storage,
        prefix=RunLayout(storage, "quickstart").search(),
        on_progress=lambda progress: None,
    )
    await environment.close()
