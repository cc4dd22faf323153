"""A small searching outfit: a policy that a test writes, and the real environment, reward and storage."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.pictures import encoded
from vigorl_lib.data import synthetic
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Frame, Point, ResizeRule, Size
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import Origin, Segment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.policy.base import Completion, FinishReason, Generation, PolicyInfo, Sampling, Scored
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.policy.scripted import ScriptedTeacher
from vigorl_lib.reward.base import Reward
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.journal import Entry, Record
from vigorl_lib.search.mcts import Journal, TreeSearch
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.images import ImageStore

RESIZE = ResizeRule(28, 784, 12544)
ZOOM = ZoomConfig(window_model_px=14, shown_px=112, max_turns=4, on_invalid="stop")
TASK = TaskConfig(family="synthetic_search", zoom=ZOOM)
REWARD = RewardConfig(distinct_when="never")


def zoom(x: float, y: float, thought: str = "The tile is at") -> str:
    return render_turn(f"{thought} ({x:g}, {y:g}).", Zoom(Point(x, y, Frame.MODEL)))


def answer(text: str, thought: str = "The dot at (5, 5).") -> str:
    return render_turn(thought, Answer(text))


def said(prompt: Sequence[Segment]) -> list[str]:
    """What the policy said so far."""
    return [segment.text for segment in prompt if segment.origin is Origin.POLICY]


def example(name: str = "one", truth: str = "pink") -> Example:
    data = encoded(448, 448, color=len(name))
    return Example(
        name, f"What is it, {name}?", (Image(digest(data), "image/png", Size(448, 448), data),), GroundTruth(truth)
    )


class WrittenPolicy:
    """Policy protocol over a function of the prompt and a seed's place in the request; remembers every request."""

    def __init__(
        self, write: Callable[[Sequence[Segment], int], str], before: Callable[[], Awaitable[None]] | None = None
    ):
        self.write = write
        self.before = before
        self.requests: list[tuple[tuple[Segment, ...], int]] = []

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self.requests.append((tuple(prompt), len(seeds)))
        if self.before is not None:
            await self.before()
        texts = [self.write(prompt, index) for index in range(len(seeds))]
        completions = tuple(Completion(text, (), (), FinishReason.STOP_STRING, 0) for text in texts)
        return Generation(tuple(prompt), completions, await self.info())

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise NotImplementedError

    async def info(self) -> PolicyInfo:
        return PolicyInfo("written", "written", "", "", 0, False, False, False, 4096, RESIZE)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def searching(
    policy: WrittenPolicy | ScriptedTeacher | PolicyClient,
    config: SearchConfig,
    *,
    task: TaskConfig = TASK,
    reward: Reward | None = None,
    images: ImageStore | None = None,
) -> TreeSearch:
    stepper = Stepper(policy, ZoomEnvironment(threads=1), task)
    return TreeSearch(stepper, reward or LocalReward(), config, REWARD, seed=7, images=images)


def recorder() -> tuple[list[Record], Journal]:
    records: list[Record] = []

    async def journal(entry: Entry) -> None:
        records.append(json.loads(entry.line))

    return records, journal


async def search_one(search: TreeSearch, question: Example | None = None) -> tuple[Tree, list[Record]]:
    question = question or example()
    records, journal = recorder()
    tree = await search.search(question, Tree(f"t/{question.example_id}", question.example_id, "written"), journal)
    return tree, records


def scenes(images: ImageStore, count: int) -> list[Example]:
    """Synthetic scenes whose pictures are in the store."""
    made = []
    for seed in range(count):
        scene = synthetic.make_scene(seed)
        data, _ = synthetic.encode(synthetic.render(scene))
        truth = GroundTruth(
            scene.answer, evidence=(scene.target.box,), distractors=tuple(d.box for d in scene.distractors)
        )
        tags = {"size": scene.size_class.value}
        made.append(Example(f"s{seed:03d}", scene.question, (images.put(data),), truth, tags=tags))
    return made


def teacher(examples: Sequence[Example], root: Path, **rates: float) -> ScriptedTeacher:
    scripted = ScriptedConfig(root=str(root), **rates)  # type: ignore[arg-type]
    return ScriptedTeacher(
        examples, PolicyConfig(name="scripted-teacher", engine="scripted", model="none", scripted=scripted), RESIZE
    )
