"""One step of the learner against a plain implementation: advantages, loss, gradients and new weights.

The plain one takes each rollout alone through the stock forward pass, without packing, cached features or engine, and
its formulas are written out here.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_grpo import RUN, TASK, grpo_config, producing
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.models.features import encode, encoder_outputs
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import load_model
from vigorl_lib.models.pixels import ViewCache
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import Group, read_step
from vigorl_lib.training.grpo import train_grpo
from vigorl_lib.training.metrics import read_metrics

FORMS: list[dict[str, Any]] = [
    {"advantage": "std", "loss_average": "token"},
    {"advantage": "none", "loss_average": "constant", "kl_coef": 0.1},
    {"advantage": "leave_one_out", "loss_average": "sequence", "ratio": "sequence"},
]


def advantages(rewards: list[float], kind: str) -> list[float]:
    size, mean = len(rewards), sum(rewards) / len(rewards)
    if kind == "leave_one_out":
        return [r - (sum(rewards) - r) / (size - 1) for r in rewards]
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (size - 1)) + 1e-6
    return [(r - mean) / (spread if kind == "std" else 1.0) for r in rewards]


class Plain:
    """The formulas over groups of the first step; old and reference log-probs are the first model's."""

    def __init__(self, config: GrpoConfig, storage: Storage, temperature: float) -> None:
        self.config, self.temperature = config, temperature
        self.loaded = load_model(f"{storage.uri}/tiny", device="cpu")
        self.images, self.views = ImageStore(storage), ViewCache(self.loaded.resize, max_bytes=1 << 26)
        step = read_step(RunLayout(storage, RUN), 0)
        assert step is not None
        self.groups = step.chosen
        with torch.no_grad():
            self.old = {t.trajectory_id: self.logprobs(t) for group in self.groups for t in group.trajectories}
        self.kl = self.clipped = 0.0

    @property
    def trained(self) -> dict[str, torch.nn.Parameter]:
        return {n: p for n, p in self.loaded.model.named_parameters() if ".visual." not in n}

    def logprobs(self, trajectory: Trajectory) -> Tensor:
        """Of the sampled tokens of one rollout."""
        model: Any = self.loaded.model
        sequences = [TokenSequence.of(trajectory.segments)]
        batch = collate(sequences, padding=0, resize=self.loaded.resize, side="right")
        seen = [self.views.get(self.images.load(image)) for image in batch.images]
        hidden = model.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            mm_encoder_outputs=encoder_outputs(encode(model, seen, self.loaded.image_processor)),
        ).last_hidden_state
        every = (model.lm_head(hidden)[0] / self.temperature).log_softmax(-1)
        places = [p for p, trained in enumerate(trajectory.trained_mask) if trained]
        return torch.stack([every[p - 1, trajectory.token_ids[p]] for p in places])

    def loss(self, groups: Sequence[Group]) -> Tensor:
        config, pairs = self.config, []
        for group in groups:
            rewards = [trajectory.reward or 0.0 for trajectory in group.trajectories]
            pairs += list(zip(group.trajectories, advantages(rewards, config.advantage), strict=True))
        tokens = sum(sum(trajectory.trained_mask) for trajectory, _ in pairs)
        loss = torch.zeros(())
        for trajectory, advantage in pairs:
            new, old = self.logprobs(trajectory), self.old[trajectory.trajectory_id]
            sampler = torch.tensor([value for segment in trajectory.segments for value in segment.logprobs])
            ratio = (new - old).mean().exp().expand(len(new)) if config.ratio == "sequence" else (new - old).exp()
            free = advantage * ratio
            objective = torch.minimum(free, advantage * ratio.clamp(1 - config.clip_low, 1 + config.clip_high))
            self.clipped += float((objective < free).sum())
            if advantage < 0:
                objective = objective.clamp(min=config.clip_dual * advantage)
            importance = (old - sampler).exp().clamp(max=config.importance_cap)
            drift = old - new
            divergence = drift.exp() - drift - 1
            self.kl += float(divergence.detach().sum())
            terms = config.kl_coef * divergence - objective * importance
            shares = {"token": tokens, "sequence": len(pairs) * len(new), "constant": len(pairs) * TASK.max_tokens}
            loss = loss + terms.sum() / shares[config.loss_average]
        return loss


@pytest.fixture
def rolled(storage: Storage) -> Storage:
    with producing(grpo_config(steps=1), storage) as problems:
        pass
    assert not problems
    return storage


def test_a_step_is_that_of_the_plain_implementation(rolled: Storage, tmp_path: Path) -> None:
    for number, form in enumerate(FORMS):
        root = tmp_path / str(number)
        shutil.copytree(rolled.uri, root)
        storage = open_storage(str(root))
        engine = {"learning_rate": 1e-3, "freeze": ["visual"], "micro_batch": 5, "weight_decay": 0.0, "clip_norm": 0.5}
        config = grpo_config(steps=1, engine=engine, **form)
        train_grpo(config, task=TASK, storage=storage, run_id=RUN)
        (record,) = read_metrics(RunLayout(storage, RUN))

        plain = Plain(config, storage, TASK.temperature)
        loss, trained = plain.loss(plain.groups), plain.trained
        loss.backward()  # type: ignore[no-untyped-call]
        grads = {name: p.grad for name, p in trained.items() if p.grad is not None}
        norm = math.sqrt(sum(float(grad.square().sum()) for grad in grads.values()))
        assert record["loss"] == pytest.approx(float(loss.detach()), abs=1e-6)
        assert record["grad_norm"] == pytest.approx(norm, rel=1e-4)

        torch.nn.utils.clip_grad_norm_(trained.values(), 0.5)
        torch.optim.AdamW(trained.values(), lr=1e-3, weight_decay=0.0).step()
        found = load_model(f"{storage.uri}/runs/{RUN}/model", device="cpu").model.state_dict()
        for name, grad in grads.items():
            # The first step of Adam is the gradient's sign, which rounding decides where it is next to nothing.
            sure = grad.abs() > 1e-5
            torch.testing.assert_close(found[name][sure], trained[name].detach()[sure], atol=2e-5, rtol=0.0)


def test_a_second_update_is_held_to_the_weights_before_the_first_one(rolled: Storage) -> None:
    # Far enough to be clipped, with an epsilon that leaves no update to rounding, at a temperature of its own.
    engine: dict[str, Any] = {
        "learning_rate": 4e-3,
        "eps": 1e-3,
        "weight_decay": 0.0,
        "freeze": ["visual"],
        "micro_batch": 5,
    }
    config = grpo_config(
        steps=1,
        updates=2,
        kl_coef=0.1,
        clip_low=0.05,
        clip_high=0.05,
        engine={**engine, "schedule": {"decay": "linear"}},
    )
    task = TASK.model_copy(update={"temperature": 0.7})
    train_grpo(config, task=task, storage=rolled, run_id=RUN)
    (record,) = read_metrics(RunLayout(rolled, RUN))

    plain = Plain(config, rolled, task.temperature)
    parameters = list(plain.trained.values())
    optimizer = torch.optim.AdamW(parameters, eps=1e-3, weight_decay=0.0)
    loss = 0.0
    # The rate has fallen by half after the first of two updates.
    for groups, rate in ((plain.groups[0::2], 4e-3), (plain.groups[1::2], 2e-3)):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        part = plain.loss(groups)
        part.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimizer.step()
        loss += float(part.detach()) / 2
    assert plain.kl > 0
    assert plain.clipped > 0
    assert record["loss"] == pytest.approx(loss, rel=1e-3, abs=1e-5)
    assert record["kl"] * record["trained_tokens"] == pytest.approx(plain.kl, rel=1e-3)
    assert record["clip_share"] * record["trained_tokens"] == pytest.approx(plain.clipped, abs=1)
    assert record["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert record["learning_rate"] == 2e-3
