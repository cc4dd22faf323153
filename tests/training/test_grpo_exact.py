"""One step of the learner against a plain implementation: advantages, loss, gradients and new weights.

The plain one takes each rollout alone through the stock forward pass, without packing, cached features or engine, and
its formulas are written out here.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.test_grpo import RUN, TASK, grpo_config, producing
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.models.features import encode, encoder_outputs
from vigorl_lib.models.inputs import TokenSequence, collate
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.pixels import ViewCache
from vigorl_lib.storage.base import Storage, open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.config import GrpoConfig
from vigorl_lib.training.groups import read_step
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


def logprobs(loaded: LoadedModel, trajectory: Trajectory, views: ViewCache, images: ImageStore) -> Tensor:
    """Of the sampled tokens of one rollout."""
    model: Any = loaded.model
    batch = collate([TokenSequence.of(trajectory.segments)], padding=0, resize=loaded.resize, side="right")
    seen = [views.get(images.load(image)) for image in batch.images]
    hidden = model.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        mm_encoder_outputs=encoder_outputs(encode(model, seen, loaded.image_processor)),
    ).last_hidden_state
    every = model.lm_head(hidden)[0].log_softmax(-1)
    places = [p for p, trained in enumerate(trajectory.trained_mask) if trained]
    return torch.stack([every[p - 1, trajectory.token_ids[p]] for p in places])


def plain_loss(config: GrpoConfig, storage: Storage, loaded: LoadedModel) -> Tensor:
    step = read_step(RunLayout(storage, RUN), 0)
    assert step is not None
    images, views = ImageStore(storage), ViewCache(loaded.resize, max_bytes=1 << 26)
    pairs = []
    for group in step.chosen:
        rewards = [trajectory.reward or 0.0 for trajectory in group.trajectories]
        pairs += list(zip(group.trajectories, advantages(rewards, config.advantage), strict=True))
    tokens = sum(sum(trajectory.trained_mask) for trajectory, _ in pairs)
    loss = torch.zeros(())
    for trajectory, advantage in pairs:
        new = logprobs(loaded, trajectory, views, images)
        sampler = torch.tensor([value for segment in trajectory.segments for value in segment.logprobs])
        # One update on the weights that sampled: old, new and reference are the same, so nothing is clipped.
        change = new - new.detach()
        ratio = change.mean().exp() if config.ratio == "sequence" else change.exp()
        importance = (new.detach() - sampler).exp().clamp(max=config.importance_cap)
        drift = new.detach() - new
        terms = -advantage * ratio * importance + config.kl_coef * (drift.exp() - drift - 1)
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

        loaded = load_model(f"{storage.uri}/tiny", device="cpu")
        trained = {n: p for n, p in loaded.model.named_parameters() if ".visual." not in n}
        loss = plain_loss(config, storage, loaded)
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
