"""What happened: segments of exact tokens, turns, prefixes and trajectories.

A `Segment` is a piece of the conversation with one origin. It says what it says as messages, and,
once a token-exact policy has rendered or sampled it, holds the exact token ids. Masks are read off
segments; text is never searched. A `Prefix` is immutable and shares its past with its siblings: the
unit that search branches and a rollout extends. A `Trajectory` is a finished prefix with its record.

Worked example (multi-turn, one zoom; `trained` marks what RL trains):

    PROMPT       system + user(image, question) + assistant header       trained False
    POLICY       <think> … </think>\\n<tool_call> … </tool_call>           trained True
    OBSERVATION  end of turn + user(<observation> crop) + assistant header trained False
    POLICY       <think> … </think>\\n<answer> pink </answer>              trained True
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from vigorl_lib.domain.geometry import Crop, Size
from vigorl_lib.domain.grammar import Answer, Turn
from vigorl_lib.domain.image import Image


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Origin(StrEnum):
    """Who made a segment."""

    PROMPT = "prompt"
    POLICY = "policy"
    OBSERVATION = "observation"
    FORCED = "forced"
    """Text put into the assistant's mouth, such as a prefilled answer tag."""
    DEMONSTRATION = "demonstration"
    """Assistant text of a teacher, tokenised once for the student."""


class StopReason(StrEnum):
    """Why a trajectory ended."""

    ANSWERED = "answered"
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    CONTEXT_OVERFLOW = "context_overflow"
    INVALID_TURNS = "invalid_turns"
    ENVIRONMENT_ERROR = "environment_error"
    POLICY_ERROR = "policy_error"
    CANCELLED = "cancelled"

    @property
    def is_error(self) -> bool:
        return self in (StopReason.ENVIRONMENT_ERROR, StopReason.POLICY_ERROR, StopReason.CANCELLED)


class InvalidTurn(StrEnum):
    """Why the environment could not act on a turn; each is counted apart."""

    MALFORMED = "malformed"
    OUTSIDE = "outside"
    REPEATED = "repeated"
    OVER_BUDGET = "over_budget"
    """A zoom when none is left."""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; parts in order, text or image."""

    role: Role
    parts: tuple[str | Image, ...]

    @property
    def text(self) -> str:
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where an image's placeholder tokens lie: `start` counts from the segment's first token."""

    start: int
    length: int
    image: Image


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of the conversation with one origin.

    `token_ids` is None until a token-exact policy has rendered the messages (once) or sampled them.
    `logprobs`, one per token, are the sampler's own (natural log, after temperature) and exist for
    POLICY segments only; `policy_version` is the version that sampled them, -1 elsewhere.
    """

    origin: Origin
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...] | None = None
    image_spans: tuple[ImageSpan, ...] = ()
    logprobs: tuple[float, ...] = ()
    policy_version: int = -1
    trained: bool = False

    @property
    def text(self) -> str:
        return "".join(message.text for message in self.messages)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(image for message in self.messages for image in message.images)

    def rendered(self, token_ids: tuple[int, ...], image_spans: tuple[ImageSpan, ...]) -> Segment:
        return replace(self, token_ids=token_ids, image_spans=image_spans)


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One turn as it went: what was said, what the environment made of it, what it showed."""

    turn: Turn
    text: str
    finish_reason: str
    invalid: InvalidTurn | None = None
    detail: str = ""
    crop: Crop | None = None
    crop_image: Image | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """An unfinished conversation: its own new segments behind those of its parent.

    `state` is the environment's opaque state after the last turn. `stop` is set on a finished one.
    `seed_path` names this prefix's place among all random choices (see `vigorl_lib.domain.seeds`).
    """

    parent: Prefix | None
    new_segments: tuple[Segment, ...]
    record: TurnRecord | None
    state: bytes
    seed_path: tuple[int | str, ...]
    stop: StopReason | None = None
    depth: int = 0

    @property
    def segments(self) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for prefix in self.path():
            segments += prefix.new_segments
        return tuple(segments)

    @property
    def turns(self) -> tuple[TurnRecord, ...]:
        return tuple(prefix.record for prefix in self.path() if prefix.record is not None)

    @property
    def answer(self) -> str | None:
        if self.record is not None and isinstance(self.record.turn.action, Answer):
            return self.record.turn.action.text
        return None

    def path(self) -> list[Prefix]:
        """Prefixes from the root to this one."""
        nodes: list[Prefix] = []
        node: Prefix | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished conversation and everything a learner, a judge or a reader needs of it.

    `trajectory_id` is `run/example/rollout`; turn k is `run/example/rollout/k`. `policy` is the
    policy's name as the server gave it; a scripted teacher says so there. `model_size` is the extent of the
    model frame, in which all points are; None where no policy has seen the image.
    """

    trajectory_id: str
    example_id: str
    mode: str
    policy: str
    segments: tuple[Segment, ...]
    turns: tuple[TurnRecord, ...]
    stop: StopReason
    error: str = ""
    seconds: float = 0.0
    reward: float | None = None
    reward_parts: dict[str, float] = field(default_factory=dict)
    outcome: str = ""
    model_size: Size | None = None

    @property
    def answer(self) -> str | None:
        action = self.turns[-1].turn.action if self.turns else None
        return action.text if isinstance(action, Answer) else None

    @property
    def token_ids(self) -> tuple[int, ...]:
        return flat_token_ids(self.segments)

    @property
    def trained_mask(self) -> tuple[bool, ...]:
        return trained_mask(self.segments)

    @property
    def zooms(self) -> int:
        return sum(record.crop is not None for record in self.turns)


def flat_token_ids(segments: Iterable[Segment]) -> tuple[int, ...]:
    """All token ids in order. Raises ValueError where a segment was never rendered."""
    ids: list[int] = []
    for segment in segments:
        if segment.token_ids is None:
            raise ValueError(f"a {segment.origin} segment has no token ids: its policy is not token-exact")
        ids.extend(segment.token_ids)
    return tuple(ids)


def trained_mask(segments: Iterable[Segment]) -> tuple[bool, ...]:
    """One flag per token of `flat_token_ids`: is its log-probability part of the loss?"""
    return tuple(segment.trained for segment in segments for _ in segment.token_ids or ())


def flat_image_spans(segments: Iterable[Segment]) -> Iterator[ImageSpan]:
    """Image spans with `start` counted from the conversation's first token."""
    offset = 0
    for segment in segments:
        for span in segment.image_spans:
            yield ImageSpan(span.start + offset, span.length, span.image)
        offset += len(segment.token_ids or ())
