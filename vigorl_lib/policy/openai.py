"""An OpenAI-compatible endpoint behind the Policy protocol: a text-exact actor for teachers and judges behind an API.

Conversations leave as chat messages and come back as text; there are no token ids, no log-probs and no weights here.
Images leave as data URLs of their model view, so that points mean pixels of what was sent; no URL is ever fetched.
Each seed is one request. The endpoint's own defaults hold for what is not sent: a cut or penalty that is off is left
out, since not every endpoint knows it, so a vLLM server should run with `--generation-config vllm`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vigorl_lib.config import section_from_environment
from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    PolicyState,
    Sampling,
    Scored,
    StreamDelta,
    StreamEnd,
    StreamEvent,
    StreamStart,
    engine_closed,
)
from vigorl_lib.policy.chat_messages import chat_messages, check_images, open_text
from vigorl_lib.policy.config import OpenAiCredentials, PolicyConfig
from vigorl_lib.policy.openai_dialect import ImageParts, check_refusal, content, stop_string

if TYPE_CHECKING:
    from openai import APIError, AsyncOpenAI

MAX_SAMPLES = 256
MAX_STOPS = 4
"""Stop strings that the API takes."""
NO_KEY = "none"
"""Sent to endpoints without authentication, because the client insists on some key."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One finished sample; times in seconds."""

    completion: Completion
    cached_tokens: int
    queue_s: float
    engine_s: float


class OpenAiPolicy:
    """Policy on an endpoint. It makes its first request when it is first asked: opening one needs no network."""

    def __init__(self, client: AsyncOpenAI, config: PolicyConfig) -> None:
        view = config.view
        largest = min(view.max_pixels, config.max_image_pixels or view.max_pixels)
        self._config = config
        self._client: AsyncOpenAI | None = client
        self._resize = ResizeRule(view.factor, view.min_pixels, largest)
        self._images = ImageParts(self._resize, config.view_cache_bytes)
        self._slots = asyncio.Semaphore(config.max_batch)
        self._samples = 0

    @classmethod
    def open(cls, config: PolicyConfig) -> OpenAiPolicy:
        """The policy of `config.openai`, its key from the environment. Raises PolicyError (ENGINE_MISSING)."""
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise PolicyError(
                "the openai engine needs the package openai; install vigorl[openai]", reason="ENGINE_MISSING"
            ) from None
        credentials = section_from_environment(OpenAiCredentials, "openai")
        client = AsyncOpenAI(
            base_url=config.openai.base_url,
            api_key=credentials.api_key.get_secret_value() if credentials else NO_KEY,
            timeout=config.openai.timeout_s,
            max_retries=config.openai.max_retries,
        )
        return cls(client, config)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        """As the protocol says; seeds hold as far as the endpoint honours them.

        Raises PolicyError (POLICY_TOO_OLD, SAMPLING_INVALID, PROMPT_INVALID, TOO_MANY_IMAGES, IMAGE_NOT_CACHED,
        PREFILL_UNSUPPORTED, CONTEXT_OVERFLOW, GENERATION_REFUSED, OVERLOADED, ENGINE_CLOSED, ENDPOINT_DENIED,
        ENDPOINT_MODEL_UNKNOWN, ENDPOINT_REFUSED, ENDPOINT_FAILED), DataError.
        """
        self._check(seeds, sampling, min_policy_version)
        with self._admitted(len(seeds)):
            request = await asyncio.to_thread(self._request, prompt, sampling)
            work = [asyncio.ensure_future(self._sample(request, open_text(prompt), sampling, seed)) for seed in seeds]
            try:
                answers = await asyncio.gather(*work)
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
        return Generation(
            prompt=tuple(prompt),
            completions=tuple(answer.completion for answer in answers),
            policy=await self.info(),
            cached_tokens=min(answer.cached_tokens for answer in answers),
            queue_seconds=max(answer.queue_s for answer in answers),
            engine_seconds=max(answer.engine_s for answer in answers),
        )

    async def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        """As the protocol says. Raises what `generate` raises, and ENDPOINT_FAILED for an answer that breaks off."""
        self._check([seed], sampling, min_policy_version)
        with self._admitted(1):
            request = await asyncio.to_thread(self._request, prompt, sampling)
            yield StreamStart(tuple(prompt), await self.info())
            text, last, asked = "", None, time.monotonic()
            async with self._slots, aclosing(self._choices(request, seed)) as choices:
                begun = time.monotonic()
                async for choice in choices:
                    check_refusal(choice, choice.delta)
                    last = choice if choice.finish_reason else last
                    if piece := content(choice.delta):
                        text += piece
                        yield StreamDelta(piece, (), ())
            if last is None:
                raise self._failed("its answer breaks off")
            completion = self._completion(text, last, open_text(prompt), sampling)
            if rest := completion.text[len(text) :]:
                yield StreamDelta(rest, (), ())
            ended = time.monotonic()
            yield StreamEnd(completion, queue_seconds=begun - asked, engine_seconds=ended - begun)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        raise PolicyError(
            f"policy {self._config.name} is behind an API that gives no log-probs of given text; "
            "score with a policy of engine vllm or transformers",
            reason="NOT_SUPPORTED",
        )

    async def info(self) -> PolicyInfo:
        return PolicyInfo(
            name=self._config.name,
            engine="openai",
            model=self._config.model,
            revision=self._config.revision,
            version=0,
            trainable=False,
            token_exact=False,
            scripted=False,
            max_context_tokens=self._config.max_context_tokens,
            resize=self._resize,
            max_samples=min(MAX_SAMPLES, self._config.max_batch + self._config.max_queued),
            max_images=self._config.max_images,
        )

    async def state(self) -> PolicyState:
        """Always SERVING: an endpoint that fails may answer the next request, and a new process would not help."""
        return PolicyState.SERVING

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        raise PolicyError(
            f"policy {self._config.name} is behind an API; its weights are not ours", reason="NOT_TRAINABLE"
        )

    async def close(self) -> None:
        """Close the connections. A closed policy takes no request."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _check(self, seeds: Sequence[int], sampling: Sampling, min_policy_version: int) -> None:
        """Raises PolicyError (POLICY_TOO_OLD, SAMPLING_INVALID)."""
        if min_policy_version > 0:
            raise PolicyError(
                f"policy {self._config.name} is behind an API and stays at version 0, {min_policy_version} or newer "
                "was asked for",
                reason="POLICY_TOO_OLD",
                version=0,
            )
        most = min(MAX_SAMPLES, self._config.max_batch + self._config.max_queued)
        problem = sampling.problem()
        if not 1 <= len(seeds) <= most:
            problem = f"seeds: expected 1 to {most}, found {len(seeds)}"
        elif len(sampling.stop) > MAX_STOPS:
            problem = f"sampling.stop: the API takes at most {MAX_STOPS} stop strings, found {len(sampling.stop)}"
        elif sampling.stop_token_ids:
            problem = "sampling.stop_token_ids: a policy behind an API knows no token ids; use stop strings"
        elif sampling.top_logprobs:
            problem = "sampling.top_logprobs: a policy behind an API knows no token ids; ask for 0"
        if problem:
            raise PolicyError(problem, reason="SAMPLING_INVALID")

    @contextmanager
    def _admitted(self, samples: int) -> Iterator[None]:
        """Raises PolicyError (OVERLOADED)."""
        limit = self._config.max_batch + self._config.max_queued
        if self._samples + samples > limit:
            raise PolicyError(
                f"policy {self._config.name} has {self._samples} samples in flight of at most {limit}; try later",
                reason="OVERLOADED",
                infrastructure=True,
            )
        self._samples += samples
        try:
            yield
        finally:
            self._samples -= samples

    def _request(self, prompt: Sequence[Segment], sampling: Sampling) -> dict[str, Any]:
        """What the API is asked, without the seed. Blocks while images decode. Raises PolicyError, DataError."""
        check_images(prompt, self._config.name, self._config.max_images)
        extra: dict[str, Any] = {}
        if open_text(prompt):
            if not self._config.openai.continue_final_message:
                raise PolicyError(
                    f"the conversation ends with assistant text, which the endpoint of policy {self._config.name} is "
                    "not known to continue; set openai.continue_final_message if it does, as vLLM's does, or force no "
                    "prefix",
                    reason="PREFILL_UNSUPPORTED",
                )
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        off = Sampling()
        extra |= {
            name: getattr(sampling, name)
            for name in ("top_k", "min_p", "repetition_penalty")
            if getattr(sampling, name) != getattr(off, name)
        }
        request = {
            "model": self._config.model,
            "messages": chat_messages(prompt, self._images.part),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "frequency_penalty": sampling.frequency_penalty,
        }
        if sampling.stop:
            request["stop"] = list(sampling.stop)
        return request | {"extra_body": extra}

    async def _sample(self, request: dict[str, Any], opened: str, sampling: Sampling, seed: int) -> _Answer:
        asked = time.monotonic()
        async with self._slots:
            begun = time.monotonic()
            async with self._asking() as client:
                reply = await client.chat.completions.create(**request, seed=seed)
        ended = time.monotonic()
        choices = getattr(reply, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise self._no_completion()
        choice = choices[0]
        check_refusal(choice, choice.message)
        details = getattr(reply.usage, "prompt_tokens_details", None)
        return _Answer(
            self._completion(content(choice.message), choice, opened, sampling),
            cached_tokens=getattr(details, "cached_tokens", None) or 0,
            queue_s=begun - asked,
            engine_s=ended - begun,
        )

    async def _choices(self, request: dict[str, Any], seed: int) -> AsyncGenerator[Any]:
        """The pieces of a streamed answer. Leaving the loop ends the request."""
        async with self._asking() as client:
            pieces = await client.chat.completions.create(**request, seed=seed, stream=True)
            async with pieces:
                async for piece in pieces:
                    # A piece that only counts tokens has no choices.
                    for choice in piece.choices or ():
                        yield choice

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[AsyncOpenAI]:
        """The client; what it raises becomes a PolicyError.

        The client's own errors hold the request, and so the key: none is kept as a cause.
        """
        from openai import APIError

        client = self._client
        if client is None:
            raise engine_closed(self._config.name)
        try:
            yield client
        except APIError as error:
            raise self._translated(error, client.api_key) from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise self._no_completion() from None

    def _translated(self, error: APIError, key: str) -> PolicyError:
        """What the endpoint's refusal or failure means to a caller of the policy."""
        status: int | None = getattr(error, "status_code", None)
        said = str(error.message).replace(key, "***") if key != NO_KEY else str(error.message)
        where = f"the endpoint of policy {self._config.name}"
        match status:
            case 401 | 403:
                # Some endpoints quote a part of the key in this message.
                return PolicyError(
                    f"{where} refuses the key; set VIGORL_OPENAI__API_KEY to one that may use {self._config.model}",
                    reason="ENDPOINT_DENIED",
                    status=status,
                )
            case 404:
                return PolicyError(
                    f"{where} knows no model {self._config.model!r} at {self._config.openai.base_url}: {said}",
                    reason="ENDPOINT_MODEL_UNKNOWN",
                    status=status,
                )
            case 429:
                return PolicyError(
                    f"{where} is at its limit: {said}", reason="OVERLOADED", infrastructure=True, status=status
                )
            case None | 408 | 409:
                return self._failed(said)
            case _ if status >= 500:
                return self._failed(f"{said} (status {status})")
        overflow = error.code == "context_length_exceeded" or "maximum context length" in said
        reason = "CONTEXT_OVERFLOW" if overflow else "ENDPOINT_REFUSED"
        return PolicyError(f"{where} refuses the request: {said}", reason=reason, status=status)

    def _no_completion(self) -> PolicyError:
        return PolicyError(
            f"expected a chat completion from {self._config.openai.base_url}, found something else; does "
            "openai.base_url name the root of the API, which often ends in /v1?",
            reason="ENDPOINT_REFUSED",
        )

    def _failed(self, what: str) -> PolicyError:
        return PolicyError(
            f"the endpoint of policy {self._config.name} failed: {what}", reason="ENDPOINT_FAILED", infrastructure=True
        )

    def _completion(self, text: str, choice: Any, opened: str, sampling: Sampling) -> Completion:
        """A whole answer, with the stop string that the API leaves out. Raises PolicyError (ENDPOINT_FAILED)."""
        match choice.finish_reason:
            case "stop":
                stop = stop_string(opened + text, choice, sampling.stop)
                reason = FinishReason.STOP_STRING if stop else FinishReason.END_OF_TURN
                return Completion(text + stop, (), (), reason, 0)
            case "length":
                return Completion(text, (), (), FinishReason.LENGTH, 0)
        raise self._failed(f"its answer ended with {choice.finish_reason!r}")
