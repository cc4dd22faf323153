"""GRPO in one file: the production loop without processes, ranks, storage of rollouts and recovery.

    python docs/grpo_in_one_file.py        # ten seconds on a core; the reward rises from 0.5 to above 0.9

Names are those of `vigorl_lib.training`, where the same steps are spread over modules: `producer` (rollout_groups),
`groups` (Group), `advantages` (group_advantages, token_weights), `plan` (compare), `batches` (samples), `losses`
(policy_loss, kl_k3, importance_weights), `grpo` (update) and `weights` (publish_weights). Rollouts come from the same
policy engine, environment and stepper as everywhere, so multi-turn needs no further code: a trajectory of several
turns has several trained segments.

The tiny model's answers are noise. It is paid for what any model learns at once, the share of its tokens whose id is
even; with a model that answers, `score` is a call of a Reward.
"""

from __future__ import annotations

import asyncio
import copy
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vigorl_lib.data.datasets_synthetic import scene_example
from vigorl_lib.data.synthetic import make_scene
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.tiny import build_tiny
from vigorl_lib.policy.base import Policy
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.transformers import TransformersPolicy
from vigorl_lib.rollout.run import solve
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.batches import MicroBatch, collate_samples, sample_of
from vigorl_lib.training.module import ImageInputs, LogProbModule, detach_vision
from vigorl_lib.training.weights import current_weights, publish_weights

Group = list[Trajectory]  # Rollouts of one prompt.
RUN = "grpo"
PROMPTS, GROUP_SIZE, MICRO_BATCH, LEARNING_RATE, CLIP_NORM = 4, 6, 12, 1e-2, 1.0
CLIP_LOW, CLIP_HIGH, CLIP_DUAL, IMPORTANCE_CAP, KL_COEF = 0.2, 0.28, 3.0, 2.0, 0.001
TASK = TaskConfig(
    family="synthetic_search",
    mode="multi_turn",
    max_turn_tokens=6,
    max_tokens=96,
    zoom=ZoomConfig(window_model_px=14, shown_px=112, max_turns=2, on_invalid="stop"),
)


# Rollouts: whole groups, all conversations at once, each at its own pace.
async def rollout_groups(policy: Policy, examples: Sequence[Example], step: int) -> list[Group]:
    stepper = Stepper(policy, ZoomEnvironment(), TASK, own=True, min_policy_version=step)

    async def rollout(position: int, index: int) -> Trajectory:
        example, name = examples[position % len(examples)], f"{position}-{index}"
        return score(await solve(stepper, example, trajectory_id=name, seed_path=(0, position, index)))

    async def group(position: int) -> Group:
        return await asyncio.gather(*(rollout(position, index) for index in range(GROUP_SIZE)))

    return list(await asyncio.gather(*(group(step * PROMPTS + number) for number in range(PROMPTS))))


def score(trajectory: Trajectory) -> Trajectory:
    sampled = [i for i, trained in zip(trajectory.token_ids, trajectory.trained_mask, strict=True) if trained]
    return replace(trajectory, reward=sum(token_id % 2 == 0 for token_id in sampled) / len(sampled))


# What is worth training on, and how much each token counts.
def group_advantages(rewards_G: Sequence[float]) -> list[float]:
    mean, deviation = statistics.fmean(rewards_G), statistics.stdev(rewards_G)
    return [(reward - mean) / (deviation + 1e-6) for reward in rewards_G]


def token_weights(lengths_S: Sequence[int]) -> list[float]:
    return [1.0 / sum(lengths_S)] * len(lengths_S)  # A mean over all tokens.


def compare(group: Group) -> list[tuple[Trajectory, float]]:
    rewards = [trajectory.reward or 0.0 for trajectory in group]
    if len(set(rewards)) == 1:
        return []  # Equal rewards have no advantage. Production rolls out another prompt instead.
    return list(zip(group, group_advantages(rewards), strict=True))


# The loss, over trained tokens only; all tensors are [tokens].
def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    weights: Tensor,
    importance: Tensor,
    reference: Tensor,
) -> Tensor:
    ratio = (logprobs - old_logprobs).exp()
    bounded = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH))
    bounded = torch.where(advantages < 0, torch.minimum(bounded, -advantages * CLIP_DUAL), bounded)
    return (weights * (importance * bounded + KL_COEF * kl_k3(logprobs, reference))).sum()


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    difference = reference - logprobs
    return difference.exp() - difference - 1.0


def importance_weights(old_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    return (old_logprobs - sampler_logprobs).exp().clamp(max=IMPORTANCE_CAP)


# The learner: a model with its frozen vision tower set aside, and an optimiser.
class Learner:
    def __init__(self, loaded: LoadedModel, images: ImageStore) -> None:
        self.loaded, self.tower = loaded, detach_vision(loaded.model)
        self.images = ImageInputs(loaded, images, self.tower, view_cache_bytes=1 << 26, feature_cache_bytes=1 << 26)
        self.module = LogProbModule(loaded.model, loaded.image_processor)
        self.reference = copy.deepcopy(self.module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE, weight_decay=0.0)

    def update(self, groups: Sequence[Group]) -> float:
        """One optimiser step on the groups; returns the loss."""
        compared = [pair for group in groups for pair in compare(group)]
        if not compared:
            return 0.0
        weights = token_weights([sum(trajectory.trained_mask) for trajectory, _ in compared])
        samples = [
            sample_of(trajectory.segments, name=trajectory.trajectory_id, advantage=advantage, weight=weight)
            for (trajectory, advantage), weight in zip(compared, weights, strict=True)
        ]
        total = 0.0
        # Gradients of the micro-batches add up, for each token's weight is of the whole batch.
        for start in range(0, len(samples), MICRO_BATCH):
            batch = collate_samples(samples[start : start + MICRO_BATCH], resize=self.loaded.resize)
            loss = self.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def loss(self, batch: MicroBatch) -> Tensor:
        features = self.images.of(batch.inputs.images)
        logprobs = self.module(batch, features, TASK.temperature)
        before = logprobs.detach()  # With one update a step, the old weights are those of this very pass.
        return policy_loss(
            logprobs,
            before,
            batch.advantages,
            weights=batch.weights,
            importance=importance_weights(before, batch.sampler_logprobs),
            reference=self.reference(batch, features, TASK.temperature),
        )

    def weights(self) -> dict[str, Tensor]:
        both = (*self.loaded.model.named_parameters(), *self.tower.named_parameters())
        return {name: tensor.detach() for name, tensor in both}


async def train_grpo(root: Path, steps: int) -> list[float]:
    """Mean reward of each step."""
    build_tiny(root / "model", seed=0)
    storage = open_storage(str(root))
    layout, images, model = RunLayout(storage, RUN), ImageStore(storage), str(root / "model")
    examples = [scene_example(make_scene(seed), f"scene-{seed}") for seed in range(16)]
    for example in examples:
        images.put(example.images[0].data or b"")
    policy = TransformersPolicy.open(PolicyConfig(name="student", model=model, trainable_by=RUN, device="cpu"))
    learner = Learner(load_model(model, device="cpu"), images)
    rewards: list[float] = []
    for step in range(steps):
        groups = await rollout_groups(policy, examples, step)
        loss = learner.update(groups)
        publish_weights(layout, step + 1, learner.weights(), keep=2)
        wanted = current_weights(layout)
        assert wanted is not None
        await policy.update_weights(version=wanted.version, uri=wanted.uri, run_id=RUN)
        rewards.append(statistics.fmean(t.reward or 0.0 for group in groups for t in group))
        print(f"step {step + 1}: reward {rewards[-1]:.3f}, loss {loss:+.4f}")
    await policy.close()
    return rewards


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(train_grpo(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else 15))
