"""The vLLM engine behind the Policy protocol: `AsyncLLM`, the same on GPUs and on a CPU.

Requests are checked and rendered by `vigorl_lib.policy.intake`; vLLM gets exact token ids and images in the model
frame under an id of their own (digest and resize rule), so that its processor cache and its prefix cache find them
again on later turns and on the other samples of a group. Each seed is one vLLM request; what they share is computed
once. New weights are read in place (`vigorl_lib.policy.vllm_weights`) while nothing is in flight. What a request and
an answer look like to vLLM is `vigorl_lib.policy.vllm_dialect`, how the engine is started
`vigorl_lib.policy.vllm_engine`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import (
    Completion,
    Generation,
    PolicyInfo,
    PolicyState,
    Sampling,
    Scored,
    StreamDelta,
    StreamEnd,
    StreamEvent,
    StreamStart,
    WeightTransfer,
    engine_dead,
)
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.gate import UpdateGate
from vigorl_lib.policy.intake import Intake, Prepared, with_logprobs
from vigorl_lib.policy.metrics import PolicyMetrics
from vigorl_lib.policy.vllm_calls import EngineCalls, gather_all
from vigorl_lib.policy.vllm_dialect import VllmDialect
from vigorl_lib.policy.vllm_weights import WeightsUpdater
from vigorl_lib.rpc.streams import events_of

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput

    from vigorl_lib.policy.vllm_engine import StartedEngine

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One finished sample and what the engine says about it; times in seconds."""

    completion: Completion
    cached_tokens: int
    queue_s: float
    engine_s: float
    first_token_s: float

    @classmethod
    def of(cls, completion: Completion, last: RequestOutput) -> _Answer:
        times: Any = last.metrics
        return cls(
            completion,
            cached_tokens=last.num_cached_tokens or 0,
            queue_s=max(0.0, times.scheduled_ts - times.queued_ts),
            engine_s=max(0.0, times.last_token_ts - times.scheduled_ts),
            first_token_s=times.first_token_latency,
        )


class VllmPolicy:
    """Policy on a running vLLM engine. `open` is the usual way to get one; `close` ends the engine's processes."""

    def __init__(self, started: StartedEngine, config: PolicyConfig) -> None:
        self._config = config
        self._intake = Intake(
            config,
            started.renderer,
            started.family,
            vocabulary=started.vocabulary,
            trained_context=started.trained_context,
        )
        self._dialect = VllmDialect(started.renderer, config.name)
        self._weights = WeightsUpdater(started.launched, config)
        self._gate = UpdateGate(config.name, drain_s=config.vllm.drain_s)
        self._updating = asyncio.Lock()
        self._updates: set[asyncio.Future[None]] = set()
        self._metrics = PolicyMetrics(config.name)
        self._calls = EngineCalls(started.launched, config, self._metrics)
        self._metrics.version(self._weights.version)

    @classmethod
    def open(cls, config: PolicyConfig) -> VllmPolicy:
        """Start the engine with the version that `CURRENT` names, or else with the checkpoint's weights. Blocks."""
        from vigorl_lib.policy.vllm_engine import start

        return cls(start(config), config)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self._intake.check(seeds, sampling)
        begin = time.monotonic()
        async with self._admitted(len(seeds)):
            prepared, sampling = await asyncio.to_thread(self._intake.to_generate, prompt, sampling)
            async with self._version(min_policy_version) as version:
                waited_s = time.monotonic() - begin
                inputs = await self._engine_input(prepared)
                answers = await gather_all(
                    self._sample(inputs, prepared, sampling, seed, version, request_id) for seed in seeds
                )
        for answer in answers:
            self._metrics.answered(answer.completion, waited_s + answer.queue_s, waited_s + answer.first_token_s)
        cached_tokens = min(answer.cached_tokens for answer in answers)
        self._metrics.prompt(len(prepared.sequence), cached_tokens)
        return Generation(
            prompt=prepared.segments,
            completions=tuple(answer.completion for answer in answers),
            policy=self._intake.info(version),
            cached_tokens=cached_tokens,
            queue_seconds=waited_s + max(answer.queue_s for answer in answers),
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
        self._intake.check([seed], sampling)

        async def sample(report: Callable[[StreamEvent], None]) -> StreamEvent:
            begin = time.monotonic()
            async with self._admitted(1):
                prepared, cut = await asyncio.to_thread(self._intake.to_generate, prompt, sampling)
                async with self._version(min_policy_version) as version:
                    waited_s = time.monotonic() - begin
                    report(StreamStart(prepared.segments, self._intake.info(version)))
                    answer = await self._pieces(prepared, cut, seed, version, request_id, report)
            self._metrics.answered(answer.completion, waited_s + answer.queue_s, waited_s + answer.first_token_s)
            self._metrics.prompt(len(prepared.sequence), answer.cached_tokens)
            return StreamEnd(
                answer.completion, answer.cached_tokens, waited_s + answer.queue_s, engine_seconds=answer.engine_s
            )

        # In a task of its own: a reader who is slow must not hold up an update.
        async with aclosing(events_of(sample)) as events:
            async for event in events:
                yield event

    async def _pieces(
        self,
        prepared: Prepared,
        sampling: Sampling,
        seed: int,
        version: int,
        request_id: str,
        report: Callable[[StreamEvent], None],
    ) -> _Answer:
        """One sample, its pieces reported as they come. Raises PolicyError (GENERATION_ABORTED) if there are none."""
        last: RequestOutput | None = None
        again = partial(self._engine_input, prepared)
        params = self._dialect.sampling(sampling, seed, whole=False)
        pieces = self._dialect.pieces()
        async with aclosing(self._calls.outputs(await again(), again, params, request_id)) as outputs:
            async for output in outputs:
                (piece,) = output.outputs
                last = output
                report(pieces.add(piece))
        if last is None:
            raise PolicyError("the engine ended a request without an answer", reason="GENERATION_ABORTED")
        completion = self._dialect.completion(pieces.whole(), sampling, version)
        if rest := pieces.rest(completion.text):
            report(StreamDelta(rest, (), ()))
        return _Answer.of(completion, last)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        async with self._admitted(1):
            prepared = await asyncio.to_thread(self._intake.to_score, prompt)
            async with self._version(min_policy_version) as version:
                again = partial(self._engine_input, prepared)
                output = await self._calls.whole(await again(), again, self._dialect.scoring(), request_id)
        logprobs = self._dialect.prompt_logprobs(output)
        return Scored(with_logprobs(prepared.segments, logprobs), self._intake.info(version))

    async def info(self) -> PolicyInfo:
        return self._intake.info(self._weights.version)

    async def state(self) -> PolicyState:
        if self._weights.broken or self._calls.engine.errored:
            return PolicyState.FAILED
        # An engine that loads weights does not answer until it has them.
        return PolicyState.UPDATING if self._gate.closed else await self._calls.state()

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """As the protocol says: drain what is in flight, load all tensors or keep the old ones, go on.

        The version that is loaded already changes nothing, an older one is refused. Raises PolicyError
        (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER, WEIGHTS_MISMATCH, WEIGHTS_UNREADABLE, UPDATE_FAILED), StorageError.
        """
        self._intake.check_update(version, run_id, self._weights.version)
        return await self._shielded(self._update(version, uri))

    async def receive_weights(self, *, version: int, transfer: WeightTransfer, run_id: str) -> PolicyInfo:
        """As `TakesTransfers` says: names, types and shapes are checked before the learner is told to send.

        Raises PolicyError (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER, NOT_SUPPORTED, WEIGHTS_MISMATCH, UPDATE_FAILED,
        ENGINE_FAILED).
        """
        self._intake.check_update(version, run_id, self._weights.version)
        await asyncio.to_thread(self._weights.check, transfer)
        return await self._shielded(self._receive(version, transfer))

    async def close(self) -> None:
        """End the engine's processes; what is in flight is lost, so drain first. A closed policy takes no request."""
        await asyncio.gather(*self._updates, return_exceptions=True)
        self._weights.close()
        await self._calls.close()

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> PolicyInfo:
        """A caller who goes away must not leave an engine that is paused."""
        update = asyncio.ensure_future(work)
        self._updates.add(update)
        update.add_done_callback(self._updates.discard)
        await asyncio.shield(update)
        return await self.info()

    async def _update(self, version: int, uri: str) -> None:
        async with self._updating:
            if version <= self._weights.version:
                return
            version, uri = await asyncio.to_thread(self._intake.wanted, version, uri)
            fetched = await asyncio.to_thread(self._weights.fetch, uri)
            try:
                await self._drained(self._weights.load(version, fetched))
            finally:
                fetched.release_unless(self._weights.loaded)

    async def _receive(self, version: int, transfer: WeightTransfer) -> None:
        async with self._updating:
            if version > self._weights.version:
                store = await asyncio.to_thread(self._weights.meet, transfer)
                await self._drained(self._weights.receive(version, transfer, store))

    async def _drained(self, take: Coroutine[Any, Any, None]) -> None:
        """Take new weights while nothing is in flight."""
        begin = time.monotonic()
        try:
            async with self._gate.alone():
                drained = time.monotonic()
                await take
        finally:
            take.close()
            # A failed update may have gone back to what storage wants.
            self._metrics.version(self._weights.version)
        loaded = time.monotonic()
        self._metrics.updated(loaded - drained)
        log.info(
            "policy %s has version %d: drained in %.2f s, loaded in %.2f s",
            self._config.name,
            self._weights.version,
            drained - begin,
            loaded - drained,
        )

    @asynccontextmanager
    async def _admitted(self, samples: int) -> AsyncIterator[None]:
        if self._weights.broken:
            raise engine_dead(self._config.name)
        async with self._calls.admitted(samples):
            yield

    @asynccontextmanager
    async def _version(self, wanted: int) -> AsyncIterator[int]:
        """The version that everything inside is computed with."""
        async with self._gate.shared():
            self._intake.check_version(wanted, self._weights.version)
            yield self._weights.version

    async def _engine_input(self, prepared: Prepared) -> Any:
        """The conversation as vLLM's own input, its images processed or found in vLLM's cache.

        Raises PolicyError (PROMPT_INVALID) where vLLM would see other tokens than we have.
        """
        sequence = prepared.sequence
        prompt = self._dialect.prompt(prepared)
        self._metrics.images(len(sequence.image_spans))
        (inputs,) = await self._calls.engine.renderer.render_cmpl_async([prompt])
        if tuple(inputs["prompt_token_ids"]) != sequence.token_ids:
            raise PolicyError(
                f"the engine of policy {self._config.name} expands this prompt's images to other tokens than its "
                f"{self._intake.info(0).family} resize rule does",
                reason="PROMPT_INVALID",
            )
        return inputs

    async def _sample(
        self, inputs: Any, prepared: Prepared, sampling: Sampling, seed: int, version: int, request_id: str
    ) -> _Answer:
        params = self._dialect.sampling(sampling, seed, whole=True)
        output = await self._calls.whole(inputs, partial(self._engine_input, prepared), params, request_id)
        return _Answer.of(self._dialect.completion(output.outputs[0], sampling, version), output)
