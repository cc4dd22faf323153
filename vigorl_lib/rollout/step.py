"""The one move of the whole system: `step(prefix, n)` gives n longer conversations.

The policy continues the prefix n times, the environment acts on each continuation. Search composes
this move into a tree, `vigorl_lib.rollout.run` into a loop; no other code turns a policy's text into
what happens next.

Policies may write points in another frame than the model frame, in which environment, rewards, search and
reports measure. Here is the border between the two: what a policy says is kept as it said it, token for token,
and what was understood of it, the turn, is in the model frame.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, FrameMap, Point
from vigorl_lib.domain.grammar import MODES, ContinueStyle, map_points, numbered_thoughts
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.seeds import derive_seed
from vigorl_lib.domain.trajectory import (
    Message,
    Origin,
    Prefix,
    Role,
    Segment,
    StopReason,
    TurnRecord,
)
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX
from vigorl_lib.environment.base import Environment, Outcome
from vigorl_lib.errors import ConfigError, VigorlError
from vigorl_lib.policy.base import Completion, FinishReason, Policy, PolicyInfo
from vigorl_lib.prompts import NO_PROMPT, Prompt, load_prompt
from vigorl_lib.rollout.given import play
from vigorl_lib.rollout.task import FewShotExample, TaskConfig

LoadImage = Callable[[str], Image]
"""The image of a digest, with its bytes."""

MIN_STEPS_LINE = "\n- Take at least {steps} steps before the answer."

MODEL_DECIMALS = 3
"""A coordinate of the model frame is written to the thousandth of a pixel."""


class StepError(VigorlError):
    """A step that failed at one boundary; `stop` says at which, the cause is chained."""

    category = "rollout"

    def __init__(self, stop: StopReason, cause: VigorlError) -> None:
        super().__init__(cause.message, reason=cause.reason, infrastructure=cause.infrastructure, **cause.metadata)
        self.stop = stop


class _Boundary:
    """Attributes a typed failure to the boundary that it crossed. Every turn crosses four, so they hold nothing."""

    __slots__ = ("_stop",)

    def __init__(self, stop: StopReason) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, VigorlError):
            overflow = error.reason == "CONTEXT_OVERFLOW"
            raise StepError(StopReason.CONTEXT_OVERFLOW if overflow else self._stop, error) from error


_AT_POLICY = _Boundary(StopReason.POLICY_ERROR)
_AT_ENVIRONMENT = _Boundary(StopReason.ENVIRONMENT_ERROR)


class Stepper:
    """Steps conversations of one task with one policy and one environment.

    `own` marks what the policy samples as trained (RL on its own tokens). `load_image` finds the images of few-shot
    examples. Raises ConfigError (MODE_UNKNOWN, MODE_NOT_TRAINABLE, FEW_SHOT_UNSUPPORTED, PROMPT_UNKNOWN).
    """

    def __init__(
        self,
        policy: Policy,
        environment: Environment,
        task: TaskConfig,
        *,
        own: bool = False,
        min_policy_version: int = 0,
        load_image: LoadImage | None = None,
    ) -> None:
        if task.mode not in MODES:
            raise ConfigError(
                f"task.mode: expected one of {', '.join(MODES)}, found {task.mode!r}", reason="MODE_UNKNOWN"
            )
        self._numbered = MODES[task.mode].continue_style is ContinueStyle.NUMBERED
        if own and self._numbered:
            raise ConfigError(
                f"task.mode {task.mode} asks for each turn under another prompt, so its turns are no tokens of one "
                "conversation to train on; take thought_steps",
                reason="MODE_NOT_TRAINABLE",
            )
        if task.few_shot and load_image is None:
            raise ConfigError(
                "task.few_shot: this command has no storage to read its images from; leave it out",
                reason="FEW_SHOT_UNSUPPORTED",
            )
        self._load_image = load_image
        self._shots: tuple[Message, ...] | None = None
        self.policy = policy
        self.environment = environment
        self.task = task
        self.own = own
        self.min_policy_version = min_policy_version
        if task.prompt_source == "file":
            # An unknown prompt is refused here, before a policy is asked for anything.
            load_prompt(task.family, task.prompt_name)
        self._info: PolicyInfo | None = None

    async def info(self) -> PolicyInfo:
        """The policy's description, asked once."""
        if self._info is None:
            self._info = await self.policy.info()
        return self._info

    @property
    def point_frame(self) -> Frame:
        """The frame in which the policy writes points; known once `info` has been asked."""
        assert self._info is not None
        return self.task.frame_for(self._info)

    @property
    def prompt(self) -> Prompt:
        """The task's prompt, asking for points in `point_frame`."""
        if self.task.prompt_source == "checkpoint":
            return NO_PROMPT
        return load_prompt(self.task.family, self.task.prompt_name, self.point_frame)

    async def start(self, example: Example, seed_path: tuple[int | str, ...]) -> Prefix:
        """Open an episode on an example's first image. Raises StepError."""
        with _AT_POLICY:
            info = await self.info()
        with _AT_ENVIRONMENT:
            episode = await self.environment.start(
                example.images[0], mode=self.task.mode, config=self.task.zoom, resize=info.resize
            )
        told = self.prompt.text + self._min_steps(seed_path)
        messages = (
            *((Message(Role.SYSTEM, (told,)),) if told else ()),
            *await self._few_shot(info),
            Message(Role.USER, (*example.images, f"\n{example.question}")),
        )
        return Prefix(None, (Segment(Origin.PROMPT, messages),), None, episode.state, seed_path)

    async def step(self, prefix: Prefix, n: int, *, last: bool = False) -> list[Prefix]:
        """n successors of an unfinished prefix, in the order of their seeds. Raises StepError.

        The successors' parent is `prefix` with its segments rendered, so that nothing is tokenised twice.
        `last` says that the caller permits no turn after this one, so a task that forces an answer does it now.
        """
        if prefix.stop is not None:
            raise ValueError(f"a finished prefix ({prefix.stop}) has no successors")
        forced = self._forced(prefix, last)
        segments = prefix.segments
        prompt = (*(self._numbered_question(prefix) if self._numbered else segments), *forced)
        with _AT_POLICY:
            await self.info()
        used = self._used(segments) + _tokens_after_prompt(forced)
        seeds = [derive_seed(*prefix.seed_path, index) for index in range(n)]
        with _AT_POLICY:
            generation = await self.policy.generate(
                prompt,
                seeds=seeds,
                sampling=self.task.sampling(self.task.max_tokens - used, forced=bool(forced)),
                min_policy_version=self.min_policy_version,
                request_id="/".join(map(str, prefix.seed_path)),
            )
        parent = prefix
        if not self._numbered:
            segments = generation.prompt[: len(segments)]
            rendered = segments[len(segments) - len(prefix.new_segments) :]
            if any(new is not old for new, old in zip(rendered, prefix.new_segments, strict=True)):
                parent = replace(prefix, new_segments=rendered)
        forced = generation.prompt[len(generation.prompt) - len(forced) :] if forced else ()
        if forced or parent is not prefix:
            used = self._used(segments) + _tokens_after_prompt(forced)
        successors = [
            self._successor(parent, forced, used, index, completion)
            for index, completion in enumerate(generation.completions)
        ]
        # A task of its own for the one successor of a rollout's turn would be a tenth of what the turn costs.
        return [await successors[0]] if len(successors) == 1 else list(await asyncio.gather(*successors))

    def _min_steps(self, seed_path: tuple[int | str, ...]) -> str:
        """A further line of the system prompt, its number drawn from the question's own stream."""
        if not self.task.min_steps_to:
            return ""
        draw = random.Random(derive_seed(*seed_path, "min_steps"))
        return MIN_STEPS_LINE.format(steps=draw.randint(self.task.min_steps_from, self.task.min_steps_to))

    async def _few_shot(self, info: PolicyInfo) -> tuple[Message, ...]:
        """The conversations shown before the question, played once."""
        if self._shots is None:
            with _AT_ENVIRONMENT:
                shown = [await self._play(shot, info) for shot in self.task.few_shot]
            self._shots = tuple(message for messages in shown for message in messages)
        return self._shots

    async def _play(self, shot: FewShotExample, info: PolicyInfo) -> list[Message]:
        assert self._load_image is not None
        image = await asyncio.to_thread(self._load_image, shot.image)
        frames = FrameMap(image.size, info.resize.model_size(image.size))
        texts = [to_model_frame(text, self.point_frame, frames) for text in shot.replies]
        outcomes = await play(
            self.environment, image, texts, mode=self.task.mode, config=self.task.zoom, resize=info.resize
        )
        messages = [Message(Role.USER, (image, f"\n{shot.question}"))]
        for reply, outcome in zip(shot.replies, outcomes, strict=True):
            messages.append(Message(Role.ASSISTANT, (reply,)))
            if outcome.observation is not None:
                messages.append(outcome.observation)
        return messages

    def _numbered_question(self, prefix: Prefix) -> tuple[Segment, ...]:
        """The question with all earlier thoughts behind it."""
        (opening,) = prefix.path()[0].new_segments
        *before, question = opening.messages
        thoughts = [record.turn.thought for record in prefix.turns if record.invalid is None]
        asked = Message(Role.USER, (*question.parts, numbered_thoughts(thoughts)))
        return (Segment(Origin.PROMPT, (*before, asked)),)

    def _used(self, segments: tuple[Segment, ...]) -> int:
        """Tokens after the prompt, with a reserve for observations that no policy has rendered yet."""
        if self._numbered:
            return sum(len(segment.token_ids or ()) for segment in segments if segment.origin is Origin.POLICY)
        return sum(
            self._reserve(segment) if segment.token_ids is None else len(segment.token_ids)
            for segment in segments
            if segment.origin is not Origin.PROMPT
        )

    def _forced(self, prefix: Prefix, last: bool) -> tuple[Segment, ...]:
        """The prefilled answer tag, on the last permitted turn of a task that forces it, or when no zoom is left."""
        zoom = self.task.zoom
        spent = zoom.max_zooms > 0 and sum(record.crop is not None for record in prefix.turns) >= zoom.max_zooms
        if self.task.force_answer and (last or spent or prefix.depth + 1 >= zoom.max_turns):
            return (Segment(Origin.FORCED, (Message(Role.ASSISTANT, (FORCED_ANSWER_PREFIX,)),)),)
        return ()

    async def _successor(
        self, parent: Prefix, forced: tuple[Segment, ...], used: int, index: int, completion: Completion
    ) -> Prefix:
        text = "".join(segment.text for segment in forced) + completion.text
        outcome = await self._act(parent, text)
        said = Segment(
            Origin.POLICY,
            (Message(Role.ASSISTANT, (completion.text,)),),
            token_ids=completion.token_ids or None,
            logprobs=completion.logprobs,
            policy_version=completion.policy_version,
            trained=self.own,
        )
        observed = () if outcome.observation is None else (Segment(Origin.OBSERVATION, (outcome.observation,)),)
        stop = self._stop(outcome, completion, used + sum(map(self._reserve, observed)))
        if stop is not None:
            observed = ()
        return Prefix(
            parent=parent,
            new_segments=(*forced, said, *observed),
            record=TurnRecord(
                turn=outcome.turn,
                text=text,
                finish_reason=completion.finish_reason,
                invalid=outcome.invalid,
                detail=outcome.detail,
                crop=outcome.crop if observed else None,
                crop_image=outcome.crop_image if observed else None,
            ),
            state=outcome.state,
            seed_path=(*parent.seed_path, index),
            stop=stop,
            depth=parent.depth + 1,
        )

    async def _act(self, parent: Prefix, text: str) -> Outcome:
        """What the environment makes of a turn. It hears model-frame points, and is heard in the policy's frame."""
        image = first_image(parent)
        info = await self.info()
        spoken = self.task.frame_for(info)
        if spoken is Frame.MODEL:
            with _AT_ENVIRONMENT:
                return await self.environment.step(parent.state, text, image)
        frames = FrameMap(image.size, info.resize.model_size(image.size))
        with _AT_ENVIRONMENT:
            outcome = await self.environment.step(parent.state, to_model_frame(text, spoken, frames), image)
        if outcome.observation is None:
            return outcome
        told = tuple(
            from_model_frame(part, spoken, frames) if isinstance(part, str) else part
            for part in outcome.observation.parts
        )
        return replace(outcome, observation=Message(outcome.observation.role, told))

    def _stop(self, outcome: Outcome, completion: Completion, used: int) -> StopReason | None:
        """Why the conversation ends here, if it does; a zoom whose crop would not fit is not granted."""
        if completion.finish_reason is FinishReason.ABORTED:
            return StopReason.CANCELLED
        if completion.finish_reason is FinishReason.LENGTH:
            return StopReason.MAX_TOKENS
        if outcome.stop is not None or outcome.observation is None or not completion.token_ids:
            return outcome.stop
        return StopReason.MAX_TOKENS if used + len(completion.token_ids) >= self.task.max_tokens else None

    def _reserve(self, segment: Segment) -> int:
        """Tokens that an observation will take which no policy has rendered yet."""
        if segment.origin is not Origin.OBSERVATION or segment.token_ids is not None:
            return 0
        assert self._info is not None
        factor = self._info.resize.factor
        return self.task.observation_text_tokens + sum(image.size.area // factor**2 for image in segment.images)


def to_model_frame(text: str, frame: Frame, frames: FrameMap) -> str:
    """A policy's text with its points, written in `frame`, in the model frame."""

    def move(point: Point) -> Point:
        moved = frames.point(point, Frame.MODEL)
        return Point(round(moved.x, MODEL_DECIMALS), round(moved.y, MODEL_DECIMALS))

    return map_points(text, move, frame)


def from_model_frame(text: str, frame: Frame, frames: FrameMap) -> str:
    """A text for the policy, its model-frame points in whole numbers of `frame`, as prompts ask for them."""

    def move(point: Point) -> Point:
        moved = frames.point(point, frame)
        return Point(round(moved.x), round(moved.y), frame)

    return map_points(text, move)


def first_image(prefix: Prefix) -> Image:
    """The image that the question is about."""
    while prefix.parent is not None:
        prefix = prefix.parent
    # Few-shot examples stand before the question.
    (opening, *_) = prefix.new_segments
    return next(image for message in reversed(opening.messages) for image in message.images)


def _tokens_after_prompt(segments: tuple[Segment, ...]) -> int:
    return sum(len(segment.token_ids or ()) for segment in segments if segment.origin is not Origin.PROMPT)
