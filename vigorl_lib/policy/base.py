"""The Policy protocol: who continues a conversation.

A policy takes a conversation as segments and returns n continuations. Segments that carry token ids
are used exactly as they are; the others are rendered and tokenised once, by the policy, and come
back rendered, so that nobody ever tokenises twice. Text-exact policies (a scripted teacher, an
OpenAI-compatible endpoint) read the messages and return completions without token ids.

Engines live in sibling modules, the gRPC client in `vigorl_lib.policy.client`; all satisfy this
protocol, so callers do not know which one they drive.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from vigorl_lib.domain.geometry import Frame, ResizeRule
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.domain.wire import ACTION_STOPS
from vigorl_lib.errors import PolicyError


class FinishReason(StrEnum):
    END_OF_TURN = "end_of_turn"
    """The end-of-turn token was sampled; it is the last token id, and is not part of the text."""
    STOP_STRING = "stop_string"
    """The text ends with a stop string, which it includes."""
    LENGTH = "length"
    ABORTED = "aborted"
    STOP_TOKEN = "stop_token"  # noqa: S105 - no secret
    """One of `Sampling.stop_token_ids` was sampled; it is the last token id, and is not part of the text."""


MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; lengths in tokens.

    Off are: `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1, `frequency_penalty` 0. Penalties change
    logits before the temperature, cuts drop tokens after it; neither changes the log-probs that are reported.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ACTION_STOPS
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    top_logprobs: int = 0
    """How many of the likeliest tokens to report at each place, up to `MAX_TOP_LOGPROBS`."""

    def problem(self) -> str | None:
        """What no engine could sample with, as a sentence; None if all is well."""
        rules = (
            # Engines differ in what they make of a temperature that is nearly 0.
            (
                "temperature",
                "0, or a number from 0.01 to 2",
                self.temperature == 0.0 or 0.01 <= self.temperature <= 2.0,
            ),
            ("top_p", "a number above 0 and up to 1", 0.0 < self.top_p <= 1.0),
            ("top_k", "at least 0", self.top_k >= 0),
            ("max_tokens", "at least 1", self.max_tokens >= 1),
            ("min_p", "a number from 0 to 1", 0.0 <= self.min_p <= 1.0),
            ("repetition_penalty", "a number above 0 and up to 10", 0.0 < self.repetition_penalty <= 10.0),
            ("frequency_penalty", "a number from -2 to 2", -2.0 <= self.frequency_penalty <= 2.0),
            ("top_logprobs", f"0 to {MAX_TOP_LOGPROBS}", 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS),
        )
        for name, expected, holds in rules:
            if not holds:
                return f"sampling.{name}: expected {expected}, found {getattr(self, name)}"
        return "sampling.stop: expected no empty string" if "" in self.stop else None


TopLogprobs = tuple[tuple[int, float], ...]
"""Token ids and log-probs at one place, likeliest first."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation. Token ids and log-probs are aligned; both are empty for a text-exact policy.

    Log-probs are natural, after temperature (greedy: at temperature 1), before penalties and cuts: what a learner
    computes from the same logits.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int
    top_logprobs: tuple[TopLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What a policy is. `resize` is how it turns an original into the model frame, `point_frame` where its points are.

    `family` is empty where the engine does not know it.
    """

    name: str
    engine: str
    model: str
    revision: str
    version: int
    trainable: bool
    token_exact: bool
    scripted: bool
    max_context_tokens: int
    resize: ResizeRule
    family: str = ""
    point_frame: Frame = Frame.MODEL
    max_samples: int = 256
    max_images: int = 16


@dataclass(frozen=True, slots=True)
class Generation:
    """n completions of one prompt; `prompt` is the request's segments, now rendered."""

    prompt: tuple[Segment, ...]
    completions: tuple[Completion, ...]
    policy: PolicyInfo
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Scored:
    """The segments with `logprobs` of every token (the conversation's first token has 0.0)."""

    segments: tuple[Segment, ...]
    policy: PolicyInfo


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The first event of a stream: the prompt, now rendered, and the policy that will answer."""

    prompt: tuple[Segment, ...]
    policy: PolicyInfo


@dataclass(frozen=True, slots=True)
class StreamDelta:
    """What was sampled since the last event."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last event of a stream: the whole completion, and what it cost, as in `Generation`."""

    completion: Completion
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0


StreamEvent = StreamStart | StreamDelta | StreamEnd
"""A stream is one start, any number of deltas, and one end."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor is, without its values; `dtype` as torch names it: bfloat16, float32 …"""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightTransfer:
    """A learner that waits to send all tensors, in this order, to the workers of one replica.

    `address` and `port` are those of its store, `vigorl_lib.policy.transfer` says what passes there. `timeout_s` runs
    from when the replica is ready to when it has all tensors.
    """

    backend: str
    address: str
    port: int
    tensors: tuple[TensorSpec, ...]
    timeout_s: float
    nccl_unique_id: bytes = b""


class PolicyState(StrEnum):
    """What an engine says of itself when asked."""

    SERVING = "serving"
    UPDATING = "updating"
    """New requests wait for the weights that are being loaded."""
    FAILED = "failed"
    """Only a new process helps."""


class Policy(Protocol):
    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        """One continuation per seed; the same seed, prompt, sampling and version give the same tokens.

        Raises PolicyError (POLICY_TOO_OLD, CONTEXT_OVERFLOW, ENGINE_FAILED, OVERLOADED …), DataError.
        """
        ...

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        """One continuation while it is being sampled; the same as `generate` gives. Leaving the loop ends the work."""
        ...

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        """The same segments with `logprobs` of every token at temperature 1 under the current weights."""
        ...

    async def info(self) -> PolicyInfo: ...

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """Load weights of `version` from a committed folder in storage, or keep what is loaded and raise."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class TakesTransfers(Protocol):
    """A policy that takes new weights from a learner directly, without storage between them."""

    async def receive_weights(self, *, version: int, transfer: WeightTransfer, run_id: str) -> PolicyInfo:
        """As `Policy.update_weights`, from the learner that waits to send them.

        Raises PolicyError (NOT_SUPPORTED for another backend; UPDATE_FAILED).
        """
        ...


class Engine(Policy, Protocol):
    """A policy whose model this process runs, itself or in children of its own."""

    async def state(self) -> PolicyState:
        """Asked of the engine itself, which may take as long as its current step."""
        ...


def engine_closed(policy: str) -> PolicyError:
    """What an engine says that takes no more work."""
    return PolicyError(f"policy {policy} is shutting down", reason="ENGINE_CLOSED", infrastructure=True)


def engine_dead(policy: str) -> PolicyError:
    """What everyone hears whose engine's process has ended."""
    return PolicyError(
        f"the engine of policy {policy} has ended; its server must be started again",
        reason="ENGINE_FAILED",
        infrastructure=True,
    )


async def stream_whole(
    policy: Policy,
    prompt: Sequence[Segment],
    *,
    seed: int,
    sampling: Sampling,
    min_policy_version: int = 0,
    request_id: str = "",
) -> AsyncGenerator[StreamEvent]:
    """A stream with a single delta, for engines whose answers come whole."""
    generation = await policy.generate(
        prompt,
        seeds=[seed],
        sampling=sampling,
        min_policy_version=min_policy_version,
        request_id=request_id,
    )
    (completion,) = generation.completions
    yield StreamStart(generation.prompt, generation.policy)
    yield StreamDelta(completion.text, completion.token_ids, completion.logprobs)
    yield StreamEnd(completion, generation.cached_tokens, generation.queue_seconds, generation.engine_seconds)
