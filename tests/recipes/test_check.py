"""What a dry run says of a recipe: every recipe of the paper fits, and each thing that cannot work is told."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from click.testing import CliRunner

from vigorl_lib.cli.main import cli
from vigorl_lib.config import load
from vigorl_lib.data.datasets_synthetic import make_synthetic
from vigorl_lib.errors import ConfigError
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.recipes.check import Stage, check_recipe, sequence_tokens
from vigorl_lib.recipes.schema import RECIPES, Recipe
from vigorl_lib.storage.base import open_storage

STAGES = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem.endswith(("-sft", "-grpo")))
PAPER = [name for name in STAGES if not name.startswith(("quickstart", "compat"))]
SIZES, GPUS = ("3b", "7b"), ("1gpu", "8gpu", "16gpu")


def recipe(name: str, *overrides: str) -> Recipe:
    return load(Recipe, name, folder=RECIPES, overrides=overrides, environment={})


def stage_of(name: str) -> Stage:
    return "sft" if name.endswith("sft") else "grpo"


def errors(name: str, stage: Stage, *overrides: str) -> list[str]:
    return [str(finding) for finding in check_recipe(recipe(name, *overrides), stage) if finding.level == "error"]


def test_the_paper_has_a_recipe_for_every_domain_and_stage() -> None:
    domains = {"spatial", "visual-search", "web-grounding", "web-action"}
    single = {f"{domain}-{stage}" for domain, stage in product(domains, ("sft", "grpo"))}
    # The paper trains no other domain with zooms.
    zooming = product(("visual-search", "web-grounding"), ("sft", "grpo"))
    assert set(PAPER) == single | {f"{domain}-multi-turn-{stage}" for domain, stage in zooming}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_fits_with_every_model_and_number_of_gpus(name: str) -> None:
    for size, gpus in product(SIZES, GPUS):
        findings = check_recipe(recipe(f"{name}+{size}+{gpus}"), stage_of(name))
        assert [str(finding) for finding in findings if finding.level == "error"] == [], (size, gpus)
        # Nothing is passed over: the recipes say all that the checks want to know.
        assert {"lengths", "batches", "memory"} <= {finding.about for finding in findings if finding.level == "ok"}


@pytest.mark.parametrize("name", ["quickstart-captions", "quickstart-sft", "quickstart-mix", "quickstart-grpo"])
def test_the_recipes_of_the_quickstart_have_no_error(name: str) -> None:
    assert errors(name, "grpo" if name.endswith("grpo") else "sft") == []


def test_constants_are_those_of_the_paper() -> None:
    sft, grpo = recipe("spatial-sft").sft, recipe("spatial-grpo").grpo
    assert (sft.epochs, sft.batch, sft.engine.learning_rate, sft.engine.weight_decay) == (3, 32, 1e-6, 0.01)
    assert (sft.engine.dtype, sft.engine.zero_stage, sft.engine.freeze) == ("bf16", 3, ("visual",))
    assert (grpo.steps, grpo.prompts, grpo.group_size, grpo.kl_coef) == (500, 128, 5, 0.01)
    assert (grpo.clip_low, grpo.clip_high, grpo.clip_dual, grpo.engine.clip_norm) == (0.2, 0.28, 3.0, 1.0)
    multi = recipe("visual-search-multi-turn-grpo")
    assert (multi.grpo.group_size, multi.grpo.engine.clip_norm) == (8, 0.2)
    assert (multi.reward.answer_weight, multi.reward.format_weight, multi.reward.distinct_bonus) == (0.6, 0.4, 0.2)
    assert (multi.task.max_turn_tokens, multi.task.max_tokens, multi.task.zoom.max_turns) == (1024, 4096, 5)
    assert (multi.task.zoom.window_model_px, multi.task.zoom.shown_px, multi.task.zoom.dot) == (364, 672, False)
    web = recipe("web-grounding-multi-turn-sft").task.zoom
    assert (web.window_model_px, web.shown_px, web.dot) == (200, 504, True)


def test_a_warm_start_is_where_its_grpo_looks_for_it() -> None:
    for name in PAPER:
        if name.endswith("-grpo"):
            found = recipe(name)
            assert found.grpo.init == f"runs/{found.run_id}/sft/model"
            assert recipe(name.replace("-grpo", "-sft")).run_id == found.run_id


@pytest.mark.parametrize(
    ("name", "override", "told"),
    [
        ("spatial-grpo", "model.max_length=4096", "lengths"),
        # The reference's limit, with which conversations of three crops died.
        ("visual-search-multi-turn-grpo", "task.max_tokens=2048", "turns"),
        ("spatial-sft", "sft.batch=30", "batches"),
        ("spatial-grpo", "grpo.updates=3", "batches"),
        ("spatial-grpo", "hardware.gpus=7", "batches"),
        ("spatial-grpo+7b+1gpu", "grpo.engine.offload=none", "memory"),
        ("spatial-sft", "sft.engine.micro_batch_tokens=1000000", "memory"),
        ("spatial-sft", "sft.sources=[]", "files"),
        ("spatial-grpo", "grpo.init=''", "files"),
        # The paper has no prompt for it.
        ("spatial-sft", "task.mode=multi_turn", "prompts"),
        ("spatial-grpo", "grpo.modes={multi_turn: 1, single_turn: 3}", "prompts"),
        ("spatial-grpo", "task.mode=both", "prompts"),
    ],
)
def test_what_cannot_work_is_told(name: str, override: str, told: str) -> None:
    found = errors(name, stage_of(name), override)
    assert len(found) == 1
    assert f"{told}: " in found[0]


def test_the_longest_conversation_is_prompt_image_and_budget() -> None:
    small = recipe("spatial-grpo", "model.max_pixels=78400", "task.max_tokens=50")
    large = recipe("spatial-grpo", "model.max_pixels=156800", "task.max_tokens=150")
    # 100 more visual tokens of 28 by 28 pixels, and 100 more to say.
    assert sequence_tokens(large) - sequence_tokens(small) == 200


@pytest.mark.parametrize(
    ("name", "overrides", "told"),
    [
        ("spatial-sft", (), "ok     checkpoints: 2 newest and the best by validation_loss"),
        ("spatial-sft", ("sft.evaluate_every=150",), "ok"),
        ("spatial-sft", ("sft.evaluate_every=0",), "none is ever measured by validation_loss"),
        ("spatial-sft", ("sft.checkpoint.every=0",), "a killed run starts again"),
        ("spatial-grpo", ("grpo.checkpoint.best_metric=validation_correct_single_turn",), "ok"),
        (
            "spatial-grpo",
            ("grpo.checkpoint.best_metric=validation_correct_single_turn", "grpo.max_policy_lag=1"),
            "none is ever measured",
        ),
    ],
)
def test_a_best_checkpoint_that_nothing_measures_is_noted(name: str, overrides: tuple[str, ...], told: str) -> None:
    found = check_recipe(recipe(name, *overrides), stage_of(name))
    (finding,) = (finding for finding in found if finding.about == "checkpoints")
    assert told in str(finding)


@pytest.mark.parametrize("name", ["spatial-sft", "spatial-grpo"])
def test_storage_out_of_reach_is_a_note(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIGORL_S3__ENDPOINT", raising=False)
    found = check_recipe(recipe(name, "root=s3://bucket/runs"), stage_of(name))
    assert [finding.level for finding in found if finding.about == "files"] == ["note"]


def test_files_that_are_there_are_found(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    build_tiny(tmp_path / "models" / "tiny", seed=0)
    make_synthetic(storage, "scenes", {"train": 8}, 0, captions=4)
    where = (f"root={tmp_path}", "sft.init=models/tiny", "sft.validation=[]")
    chains = "sft.sources=[{chains: datasets/scenes/captions.parquet}]"
    found = check_recipe(recipe("quickstart-captions", *where, chains), "sft")
    files = [finding for finding in found if finding.about == "files"]
    assert [finding.level for finding in files] == ["ok", "ok"]
    # The tiny model was not made for images of the paper's size.
    told = errors("spatial-sft", "sft", *where, chains)
    assert len(told) == 1
    assert "preprocessor_config.json allows 12544 pixels" in told[0]
    few = check_recipe(
        recipe("quickstart-grpo", f"root={tmp_path}", "dataset={name: scenes, split: train}", "grpo.prompts=9"), "grpo"
    )
    assert any("8 examples" in finding.text for finding in few)
    where = (f"root={tmp_path}", "dataset={name: scenes, split: train}", "grpo.init=models/tiny")
    validated = check_recipe(recipe("quickstart-grpo", *where, "grpo.validation={every: 5, split: held-out}"), "grpo")
    assert any("split held-out of the data set scenes is not there" in finding.text for finding in validated)


def test_a_dry_run_prints_the_recipe_says_what_it_found_and_fails_where_it_must(tmp_path: Path) -> None:
    arguments = ["train", "grpo", "--recipe", "spatial-grpo+7b", "--root", str(tmp_path), "--dry-run"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["grpo"]["prompts"] == 128
    assert "ok     memory: " in result.stderr
    assert not list(tmp_path.iterdir())
    refused = CliRunner().invoke(cli, [*arguments, "--set", "hardware.gpus=7"])
    assert isinstance(refused.exception, ConfigError)
    assert "7 GPUs cannot share evenly" in refused.stderr
