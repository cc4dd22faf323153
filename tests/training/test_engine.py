"""Schedules and names; the engine itself is tested through the stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vigorl_lib.training.config import EngineConfig, GrpoConfig, ScheduleConfig, SftConfig
from vigorl_lib.training.module import is_named
from vigorl_lib.training.optim import schedule_factor


def test_warm_up_begins_above_zero_and_decay_goes_to_its_factor() -> None:
    schedule = ScheduleConfig(decay="linear", warmup_steps=4, hold=0.5, final_factor=0.1)
    factors = [schedule_factor(schedule, step, 12) for step in range(12)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:7] == [1.0, 1.0, 1.0]
    assert factors[7:] == pytest.approx([0.85, 0.7, 0.55, 0.4, 0.25])
    assert schedule_factor(schedule, 12, 12) == pytest.approx(0.1)


def test_cosine_is_half_way_in_the_middle() -> None:
    assert schedule_factor(ScheduleConfig(decay="cosine"), 5, 10) == pytest.approx(0.5)


@given(
    decay=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.integers(0, 20),
    hold=st.floats(0, 1),
    total=st.integers(1, 40),
)
def test_a_factor_lies_between_zero_and_one_and_the_first_step_moves(
    decay: str, warmup: int, hold: float, total: int
) -> None:
    schedule = ScheduleConfig.model_validate({"decay": decay, "warmup_steps": warmup, "hold": hold})
    factors = [schedule_factor(schedule, step, total) for step in range(total)]
    assert all(0.0 < factor <= 1.0 for factor in factors)


@pytest.mark.parametrize(
    ("parameter", "module", "expected"),
    [
        ("model.visual.patch_embed.proj.weight", "visual", True),
        ("model.visual.patch_embed.proj.weight", "visual.patch_embed", True),
        ("model.visual.patch_embed.proj.weight", "patch", False),
        ("lm_head.weight", "visual", False),
    ],
)
def test_modules_are_named_by_whole_dotted_parts(parameter: str, module: str, expected: bool) -> None:
    assert is_named(parameter, module) is expected


def test_a_length_is_given_once() -> None:
    with pytest.raises(ValidationError, match="not both"):
        SftConfig(steps=5, epochs=1.0)


def test_bf16_without_master_weights_is_refused() -> None:
    with pytest.raises(ValidationError, match="zero_stage 1"):
        EngineConfig(dtype="bf16")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adamw_kahan"}, "dtype bf16"),
        ({"optimizer": "adamw_kahan", "dtype": "bf16", "zero_stage": 2}, "zero_stage 0"),
        ({"optimizer": "adamw_kahan", "dtype": "bf16", "ema_decay": 0.99}, "ema_decay"),
        ({"offload": "optimizer"}, "zero_stage 1"),
        ({"offload": "all", "zero_stage": 2}, "zero_stage 3"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineConfig.model_validate(values)


def test_patience_without_evaluations_is_refused() -> None:
    with pytest.raises(ValidationError, match="evaluate_every"):
        SftConfig(patience=2)


def test_more_updates_than_groups_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least as many prompts"):
        GrpoConfig(prompts=2, updates=3)
