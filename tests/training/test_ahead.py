"""What goes on while a step's last rollouts are under way: the prompts behind it, and passes on what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_grpo import RUN, TASK, grpo_config, producing
from tests.training.test_producer import INFO, Answers, ByPrompt, config, produce
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.policy.base import Generation, PolicyInfo, Sampling
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.current import CurrentWeights, write_current
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training import grpo
from vigorl_lib.training.metrics import read_metrics

WAIT_S = 5.0


class Straggler(Answers):
    """Its first sample is not answered before `others` more were asked for, or for a moment if they never are."""

    def __init__(self, others: int, patience_s: float = WAIT_S) -> None:
        super().__init__()
        self.others, self.patience_s = others, patience_s
        self.asked_meanwhile = 0
        self._enough = asyncio.Event()

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        first = not self.asked
        answer = await super().generate(prompt, seeds=seeds, sampling=sampling, request_id=request_id)
        if len(self.asked) > self.others:
            self._enough.set()
        if first:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), self.patience_s)
            self.asked_meanwhile = len(self.asked) - 1
        return answer


def test_the_next_step_begins_while_the_last_rollout_of_a_step_is_under_way(tmp_path: Path) -> None:
    # Six rollouts a step; all twelve but the straggler are done before it is.
    policy = Straggler(others=11)
    first, second = produce(tmp_path / "a", config(steps=2, max_policy_lag=1), policy, ByPrompt(set()))
    assert policy.asked_meanwhile == 11
    one, two = produce(tmp_path / "b", config(steps=2, max_policy_lag=1, max_in_flight=1), Answers(), ByPrompt(set()))
    for found, expected in ((first, one), (second, two)):
        assert found.plan.chosen == expected.plan.chosen
        assert [g.example_id for g in found.chosen] == [g.example_id for g in expected.chosen]


def test_nothing_is_begun_beyond_the_lag_or_the_last_step(tmp_path: Path) -> None:
    strict = Straggler(others=99, patience_s=0.3)
    produce(tmp_path / "strict", config(steps=1, max_policy_lag=0), strict, ByPrompt(set()))
    assert strict.asked_meanwhile == 5
    # Weights never come, so that with a lag of 1 only the first two of three steps may be begun.
    one = Straggler(others=99, patience_s=0.3)
    with pytest.raises(Exception, match="version 1"):
        produce(tmp_path / "one", config(steps=3, max_policy_lag=1, wait_timeout_s=0.2), one, ByPrompt(set()))
    assert one.asked_meanwhile == 11
    last = Straggler(others=99, patience_s=0.3)
    produce(tmp_path / "last", config(steps=2, max_policy_lag=9), last, ByPrompt(set()))
    assert last.asked_meanwhile == 11


def test_a_group_that_was_begun_ahead_may_serve_as_a_refill(tmp_path: Path) -> None:
    every = produce(tmp_path / "a", config(), Answers(), ByPrompt(set()))[0]
    dull = {every.groups[1].example_id}
    first, second = produce(tmp_path / "b", config(steps=2, max_policy_lag=1), Straggler(11), ByPrompt(dull))
    assert first.plan.chosen == [0, 2, 3]
    assert second.plan.chosen == [4, 5, 6]


class Learning(Straggler):
    """A policy that takes the weights it is told of; a version is published when its first sample is asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__(others=17)
        self.version = 0
        self._layout = RunLayout(open_storage(str(root)), "run")

    async def generate(self, prompt: Sequence[Segment], **options: Any) -> Generation:
        if not self.asked:
            write_current(self._layout.storage, self._layout.weights_current, CurrentWeights(1, "x", "0" * 64))
        return await super().generate(prompt, **options)

    async def info(self) -> PolicyInfo:
        return PolicyInfo("fake", "fake", "fake", "", self.version, True, True, False, 1024, INFO.resize)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        self.version = version
        return await self.info()


def test_a_version_that_comes_in_the_middle_of_a_step_reaches_the_policy_and_frees_further_prompts(
    tmp_path: Path,
) -> None:
    policy = Learning(tmp_path)
    produce(tmp_path, config(steps=3, max_policy_lag=1), policy, ByPrompt(set()))
    assert policy.asked_meanwhile == 17


@pytest.fixture
def rolled(storage: Storage) -> Storage:
    with producing(grpo_config(steps=1), storage) as problems:
        pass
    assert not problems
    return storage


def test_passes_that_were_made_ahead_give_the_step_of_those_that_were_not(
    rolled: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "BEAT_S", 0.05)
    layout = RunLayout(rolled, RUN)
    marker = f"{layout.trajectories_of(0)}/COMMITTED"
    config = grpo_config(steps=1, updates=2, kl_coef=0.1, checkpoint={"every": 0})
    looked = 0

    def train(run_ahead: bool) -> dict[str, float]:
        nonlocal looked
        committed = rolled.read(marker)
        if run_ahead:
            rolled.delete(marker)
        look = grpo._Grpo._ahead

        def ahead(self: grpo._Grpo, step: int) -> grpo.Ahead:
            nonlocal looked
            found = look(self, step)
            looked += 1
            if not found.positions:
                # All that is on record has had its passes; the producer commits the step.
                rolled.write(marker, committed)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(grpo._Grpo, "_ahead", ahead)
            grpo.train_grpo(config, task=TASK, storage=rolled, run_id=RUN)
        (record,) = read_metrics(layout)
        for key in [*rolled.list(f"{layout.root}/model"), *rolled.list(layout.metrics), *rolled.list(layout.weights)]:
            rolled.delete(key)
        return record

    before = train(run_ahead=False)
    assert looked == 0
    assert before["passes_ahead_share"] == 0.0
    after = train(run_ahead=True)
    assert looked == 2
    assert after["passes_ahead_share"] == 1.0
    for name in ("loss", "kl", "grad_norm", "clip_share", "mismatch"):
        assert after[name] == before[name], name
