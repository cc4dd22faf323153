"""The engine on the tiny model, one process and two: kinds of optimiser, skipped steps, towers, early stop, kills."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from tests.training.conftest import CAPTIONS
from tests.training.support import DEADLINE_S, ENGINE, sft_values, trainer, wait_for, write_recipe
from vigorl_lib.data.chains import read_chains, write_chains
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Message, Segment
from vigorl_lib.errors import InternalError
from vigorl_lib.models.loading import load_model
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training import sft
from vigorl_lib.training.checkpoint import checkpoint_steps
from vigorl_lib.training.config import SftConfig
from vigorl_lib.training.losses import cross_entropy
from vigorl_lib.training.metrics import read_metrics

TEXT = "datasets/text.parquet"


def train(storage: Storage, run_id: str, **changes: Any) -> list[dict[str, float]]:
    sft.train_sft(SftConfig.model_validate(sft_values(**changes)), storage=storage, run_id=run_id, seed=3)
    return read_metrics(RunLayout(storage, run_id))


def losses(records: list[dict[str, float]]) -> list[float]:
    return [record["loss"] for record in records]


def write_text_chains(storage: Storage) -> None:
    """The captions' words without their images."""

    def text(segment: Segment) -> Segment:
        messages = (
            Message(m.role, tuple(part for part in m.parts if not isinstance(part, Image)) or ("Which tile?",))
            for m in segment.messages
        )
        return replace(segment, messages=tuple(messages))

    chains = read_chains(storage, CAPTIONS)
    write_chains(storage, TEXT, [replace(c, segments=tuple(map(text, c.segments))) for c in chains])


def test_two_ranks_with_partitioned_parameters_mix_text_and_images_and_outlive_a_kill(storage: Storage) -> None:
    write_text_chains(storage)
    sources = [{"chains": CAPTIONS}, {"chains": TEXT}]
    # One sequence a pass: in most passes one rank has an image for the tower and the other has none.
    engine = {**ENGINE, "micro_batch": 1}
    values = sft_values(steps=12, batch=4, sources=sources, checkpoint={"every": 3})
    recipe = write_recipe(storage, sft={**values, "engine": {**engine, "zero_stage": 3}}, seed=3)
    layout = RunLayout(storage, "run/sft")
    launcher = trainer(recipe, "sft", processes=2)
    wait_for(lambda: bool(checkpoint_steps(layout)), launcher)
    workers = [p for p in psutil.Process(launcher.pid).children() if "vigorl_services.trainer" in " ".join(p.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    assert launcher.wait(DEADLINE_S) != 0
    assert len(read_metrics(layout)) < 12
    assert trainer(recipe, "sft", processes=2).wait(DEADLINE_S) == 0
    alone = train(storage, "alone", steps=12, batch=4, sources=sources, engine=engine)
    found = read_metrics(layout)
    assert losses(found) == pytest.approx(losses(alone), abs=1e-4)
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in alone], rel=1e-3)


def test_features_that_are_kept_give_the_losses_of_features_that_are_not(storage: Storage) -> None:
    frozen = {**ENGINE, "freeze": ["visual"]}
    kept = train(storage, "kept", steps=8, engine=frozen)
    again = train(storage, "again", steps=8, engine={**frozen, "feature_cache_bytes": 0, "view_cache_bytes": 0})
    assert losses(kept) == losses(again)


def test_prefetch_changes_nothing(storage: Storage) -> None:
    assert losses(train(storage, "ahead", steps=6, prefetch=3)) == losses(train(storage, "now", steps=6, prefetch=0))


def test_a_frozen_projector_stays_and_the_tower_below_it_learns(storage: Storage) -> None:
    train(storage, "run", steps=2, engine={**ENGINE, "freeze": ["merger"]})
    before, after = (
        load_model(f"{storage.uri}/{where}", device="cpu").model.state_dict() for where in ("tiny", "runs/run/model")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(".visual.blocks." in name for name in moved)
    assert not any(".merger." in name for name in moved)


def test_kahan_in_bf16_follows_fp32(storage: Storage) -> None:
    plain = train(storage, "plain", steps=8)
    kahan = train(storage, "kahan", steps=8, engine={**ENGINE, "dtype": "bf16", "optimizer": "adamw_kahan"})
    assert losses(kahan) == pytest.approx(losses(plain), abs=0.05)


@pytest.mark.parametrize(("zero_stage", "offload"), [(2, "optimizer"), (3, "all")])
def test_offloading_changes_no_loss(storage: Storage, zero_stage: int, offload: str) -> None:
    plain = train(storage, "plain", steps=3)
    engine = {**ENGINE, "zero_stage": zero_stage, "offload": offload}
    assert losses(train(storage, "off", steps=3, engine=engine)) == pytest.approx(losses(plain), abs=1e-4)


def test_the_final_model_has_the_running_mean_of_the_weights_even_after_a_resume(storage: Storage) -> None:
    plain = []
    for steps in (1, 2, 3):
        train(storage, f"plain-{steps}", steps=steps)
        plain.append(load_model(f"{storage.uri}/runs/plain-{steps}/model", device="cpu").model.state_dict())

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    for zero_stage in (0, 2, 3):
        engine = {**ENGINE, "zero_stage": zero_stage, "ema_decay": 0.75}
        changes = {"steps": 3, "engine": engine, "checkpoint": {"every": 2}}
        run_id, config = f"mean-{zero_stage}", SftConfig.model_validate(sft_values(**changes))
        with pytest.raises(KeyboardInterrupt):
            sft.train_sft(config, storage=storage, run_id=run_id, seed=3, on_step=stop)
        train(storage, run_id, **changes)
        found = load_model(f"{storage.uri}/runs/{run_id}/model", device="cpu").model.state_dict()
        for name, first in plain[0].items():
            mean = 0.75 * (0.75 * first + 0.25 * plain[1][name]) + 0.25 * plain[2][name]
            assert torch.allclose(found[name], mean, atol=1e-5), (zero_stage, name)
        assert not torch.allclose(found["lm_head.weight"], plain[2]["lm_head.weight"], atol=1e-5)


def break_step(monkeypatch: pytest.MonkeyPatch, *broken: int) -> None:
    """The loss of these micro-batches, counted from 0, is not a number."""
    calls = iter(range(1000))

    def loss(logprobs: torch.Tensor, normaliser: float) -> torch.Tensor:
        return cross_entropy(logprobs, normaliser) * (float("nan") if next(calls) in broken else 1.0)

    monkeypatch.setattr(sft, "cross_entropy", loss)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_step_that_is_not_finite_is_left_out_or_ends_the_run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, zero_stage: int
) -> None:
    engine = {**ENGINE, "zero_stage": zero_stage}
    break_step(monkeypatch, 2)
    records = train(storage, "skipping", steps=4, engine={**engine, "max_skipped": 1})
    assert [record["skipped"] for record in records] == [0, 0, 1, 0]
    assert records[3]["loss"] < records[0]["loss"]
    break_step(monkeypatch, 2)
    with pytest.raises(InternalError) as caught:
        train(storage, "stopping", steps=4, engine=engine)
    assert caught.value.reason == "TRAINING_DIVERGED"


def test_training_ends_when_the_evaluation_no_longer_improves_even_after_a_resume(storage: Storage) -> None:
    # At this rate the loss rises.
    engine = {**ENGINE, "learning_rate": 3.0, "clip_norm": 0.0, "schedule": {}}
    changes = {
        "steps": 30,
        "engine": engine,
        "validation": [{"chains": CAPTIONS, "limit": 4}],
        "evaluate_every": 1,
        "patience": 3,
        "checkpoint": {"every": 2},
    }
    records = train(storage, "early", **changes)
    evaluated = [record["validation_loss"] for record in records]
    assert 3 < len(records) < 30
    assert min(evaluated[-3:]) >= min(evaluated[:-3])

    def stop(done: int, _steps: int, _record: dict[str, float]) -> None:
        if done == 3:
            raise KeyboardInterrupt

    config = SftConfig.model_validate(sft_values(**changes))
    with pytest.raises(KeyboardInterrupt):
        sft.train_sft(config, storage=storage, run_id="resumed", seed=3, on_step=stop)
    assert len(train(storage, "resumed", **changes)) == len(records)
