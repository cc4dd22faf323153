"""A policy that a test writes, exact to the token: one token a word, an image as many as its size says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.pictures import encoded
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.geometry import Frame, Point, ResizeRule, Size
from vigorl_lib.domain.grammar import Answer, Zoom, render_turn
from vigorl_lib.domain.image import Image, digest
from vigorl_lib.domain.trajectory import ImageSpan, Origin, Segment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    Sampling,
    Scored,
    StreamEvent,
    stream_whole,
)
from vigorl_lib.rollout.step import LoadImage, Stepper
from vigorl_lib.rollout.task import TaskConfig

RESIZE = ResizeRule(28, 784, 12_544)
ZOOM = ZoomConfig(window_model_px=28, shown_px=112, max_turns=3)
TASK = TaskConfig(family="synthetic_search", zoom=ZOOM)
CROP_TOKENS = 16
"""Image tokens of a crop of `ZOOM`."""


def zoom(x: float = 20, y: float = 30) -> str:
    return render_turn(f"There ({x:g}, {y:g}).", Zoom(Point(x, y)))


def answer(text: str = "pink") -> str:
    return render_turn("So (5, 5).", Answer(text))


def said(prompt: Sequence[Segment]) -> list[str]:
    return [segment.text for segment in prompt if segment.origin is Origin.POLICY]


def question(name: str = "one") -> Example:
    data = encoded(448, 448, color=7)
    return Example(
        name, f"What is {name}?", (Image(digest(data), "image/png", Size(448, 448), data),), GroundTruth("pink")
    )


@dataclass(frozen=True)
class Call:
    prompt: tuple[Segment, ...]
    seeds: tuple[int, ...]
    sampling: Sampling
    request_id: str
    min_policy_version: int


@dataclass
class WordPolicy:
    """Policy protocol over a function of the prompt and a seed's place; remembers its calls and what it rendered."""

    write: Callable[[Sequence[Segment], int], str]
    finish: FinishReason = FinishReason.STOP_STRING
    exact: bool = True
    delay: Callable[[Sequence[Segment]], float] | None = None
    frame: Frame = Frame.MODEL
    scripted: bool = False
    calls: list[Call] = field(default_factory=list)
    rendered: list[Segment] = field(default_factory=list)
    busy: int = 0
    busiest: int = 0

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self.calls.append(Call(tuple(prompt), tuple(seeds), sampling, request_id, min_policy_version))
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        try:
            if self.delay is not None:
                await asyncio.sleep(self.delay(prompt))
        finally:
            self.busy -= 1
        completions = tuple(self._completion(self.write(prompt, index)) for index in range(len(seeds)))
        return Generation(tuple(map(self._render, prompt)), completions, await self.info())

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        return stream_whole(self, prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise NotImplementedError

    async def info(self) -> PolicyInfo:
        info = PolicyInfo("words", "words", "", "", 5, False, self.exact, self.scripted, 4096, RESIZE)
        return replace(info, point_frame=self.frame)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        raise NotImplementedError

    async def close(self) -> None:
        pass

    def _completion(self, text: str) -> Completion:
        count = len(text.split()) if self.exact else 0
        return Completion(text, tuple(range(count)), (-0.5,) * count, self.finish, 5)

    def _render(self, segment: Segment) -> Segment:
        if segment.token_ids is not None or not self.exact:
            return segment
        self.rendered.append(segment)
        words = len(segment.text.split())
        tokens = [image.size.area // 28**2 for image in segment.images]
        spans = tuple(ImageSpan(words + sum(tokens[:k]), n, segment.images[k]) for k, n in enumerate(tokens))
        return segment.rendered((0,) * (words + sum(tokens)), spans)


def stepping(policy: WordPolicy, task: TaskConfig = TASK, **options: bool | int | LoadImage) -> Stepper:
    return Stepper(policy, ZoomEnvironment(threads=1), task, **options)  # type: ignore[arg-type]
