"""The Policy protocol: who continues a conversation.

A policy takes a conversation as segments and returns n continuations. Segments that carry token ids
are used exactly as they are; the others are rendered and tokenised once, by the policy, and come
back rendered, so that nobody ever tokenises twice. Text-exact policies (a scripted teacher, an
OpenAI-compatible endpoint) read the messages and return completions without token ids.

Engines live in sibling modules, the gRPC client in `vigorl_lib.policy.client`; all satisfy this
protocol, so callers do not know which one they drive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.grammar import ACTION_STOPS
from vigorl_lib.domain.trajectory import Segment


class FinishReason(StrEnum):
    END_OF_TURN = "end_of_turn"
    """The end-of-turn token was sampled; it is the last token id, and is not part of the text."""
    STOP_STRING = "stop_string"
    """The text ends with a stop string, which it includes."""
    LENGTH = "length"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; lengths in tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ACTION_STOPS


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation. Token ids and log-probs are aligned; both are empty for a text-exact policy."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    policy_version: int


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What a policy is. `resize` is how it turns an original into the model frame."""

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


@dataclass(frozen=True, slots=True)
class Generation:
    """n completions of one prompt; `prompt` is the request's segments, now rendered."""

    prompt: tuple[Segment, ...]
    completions: tuple[Completion, ...]
    policy: PolicyInfo
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0


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

    async def score(self, prompt: Sequence[Segment]) -> tuple[Segment, ...]:
        """The same segments with `logprobs` of every token under the current weights (first token 0.0)."""
        ...

    async def info(self) -> PolicyInfo: ...

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """Load weights of `version` from a committed folder in storage, or keep what is loaded and raise."""
        ...

    async def close(self) -> None: ...
