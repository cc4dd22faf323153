"""Every recipe resolves, and overrides, files and the environment have the stated order of strength."""

from __future__ import annotations

from pathlib import Path

import pytest

from vigorl_lib.config import load
from vigorl_lib.errors import ConfigError
from vigorl_lib.recipes.schema import RECIPES, Recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_resolves_and_survives_a_round_trip(name: str) -> None:
    recipe = load(Recipe, name, folder=RECIPES, environment={})
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_set_is_stronger_than_the_environment_and_that_than_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nseed: 1\nsearch: {simulations: 5, children: 4}\n")
    (tmp_path / "quickstart.yaml").write_text((RECIPES / "quickstart.yaml").read_text())
    environment = {"VIGORL_SEARCH__SIMULATIONS": "6", "VIGORL_SEARCH__CHILDREN": "7", "VIGORL_HOME": "x"}
    recipe = load(Recipe, str(file), folder=tmp_path, overrides=["search.children=8"], environment=environment)
    assert (recipe.seed, recipe.search.simulations, recipe.search.children) == (1, 6, 8)
    assert recipe.task.zoom.window_model_px == 14


def test_recipes_joined_by_plus_and_in_a_list_are_merged_the_later_the_stronger(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("search: {simulations: 2, children: 2, max_depth: 2}\n")
    (tmp_path / "wide.yaml").write_text("search: {children: 7}\n")
    (tmp_path / "deep.yaml").write_text("search: {children: 9, max_depth: 9}\n")
    (tmp_path / "both.yaml").write_text("extends: [base, wide, deep]\nsearch: {simulations: 5}\n")

    def search(name: str) -> tuple[int, int, int]:
        found = load(Recipe, name, folder=tmp_path, environment={}).search
        return found.simulations, found.children, found.max_depth

    assert search("base+wide") == (2, 7, 2)
    assert search("base+deep+wide") == (2, 7, 9)
    assert search("both") == (5, 9, 9)
    with pytest.raises(ConfigError, match="did you mean 'wide'"):
        search("base+wid")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sft.stepz=3", "did you mean 'steps'"),
        ("root.x=1", "'root' is not a section"),
        ("=1", "expected --set key.path=value"),
        ("reward.answer_weight=-1", "reward.answer_weight"),
    ],
)
def test_a_wrong_override_names_the_key(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(Recipe, "quickstart", folder=RECIPES, overrides=[override], environment={})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="expected YAML text"):
        load(Recipe, str(tmp_path / "b.yaml"), folder=RECIPES, environment={})
