"""The embedded policy engine: transformers behind the Policy protocol.

Requests are checked, rendered and their images decoded off the event loop (`vigorl_lib.policy.intake`), then handed
to the worker that owns the model and batches whatever waits (`vigorl_lib.policy.worker`), as a rule in a process of
its own. Throughput on a large GPU is not this engine's aim.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.models.loading import describe
from vigorl_lib.policy.base import (
    Generation,
    PolicyInfo,
    PolicyState,
    Sampling,
    Scored,
    StreamEnd,
    StreamEvent,
    StreamStart,
)
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.intake import Intake, Prepared, with_logprobs
from vigorl_lib.policy.metrics import PolicyMetrics
from vigorl_lib.policy.pieces import TokenPieces
from vigorl_lib.policy.work import (
    Alive,
    Ask,
    Drawn,
    Generate,
    Generated,
    Joined,
    LoadedWeights,
    LoadWeights,
    News,
    Score,
    Work,
    Worker,
)
from vigorl_lib.policy.worker_process import WorkerProcess
from vigorl_lib.rpc.streams import events_of

log = logging.getLogger(__name__)


class TransformersPolicy:
    """Policy on a worker. `open` is the usual way to get one; `close` ends its worker."""

    def __init__(self, worker: Worker, config: PolicyConfig) -> None:
        checkpoint = worker.checkpoint
        self._intake = Intake(
            config,
            checkpoint.renderer,
            checkpoint.family,
            vocabulary=checkpoint.vocabulary,
            trained_context=checkpoint.trained_context,
        )
        self._worker = worker
        self._name = config.name
        self._metrics = PolicyMetrics(config.name)
        self._metrics.version(worker.version)

    @classmethod
    def open(cls, config: PolicyConfig) -> TransformersPolicy:
        """Start a process that loads the checkpoint and, with a weights root, the version that `CURRENT` names. Blocks.

        Raises PolicyError (CHECKPOINT_…, WEIGHTS_…, ENGINE_FAILED), StorageError.
        """
        # A wrong folder is found by two small files, without a process.
        describe(config.model)
        return cls(WorkerProcess(config), config)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self._intake.check_version(min_policy_version, self._worker.version)
        self._intake.check(seeds, sampling)
        asked = time.monotonic()
        prepared, result = await self._generated(prompt, tuple(seeds), sampling, asked)
        return Generation(
            prompt=prepared.segments,
            completions=result.completions,
            policy=self._intake.info(result.completions[0].policy_version),
            queue_seconds=result.started - asked,
            engine_seconds=result.finished - result.started,
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
        self._intake.check_version(min_policy_version, self._worker.version)
        self._intake.check([seed], sampling)

        async def sample(report: Callable[[StreamEvent], None]) -> StreamEvent:
            asked = time.monotonic()
            pieces = TokenPieces(self._worker.checkpoint.renderer)

            def hear(prepared: Prepared, news: News) -> None:
                match news:
                    case Joined():
                        report(StreamStart(prepared.segments, self._intake.info(news.version)))
                    case Drawn():
                        report(pieces.add(news.token_id, news.logprob))

            _, result = await self._generated(prompt, (seed,), sampling, asked, hear)
            (completion,) = result.completions
            report(pieces.rest(completion))
            return StreamEnd(
                completion,
                queue_seconds=result.started - asked,
                engine_seconds=result.finished - result.started,
            )

        async with aclosing(events_of(sample)) as events:
            async for event in events:
                yield event

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        self._intake.check_version(min_policy_version, self._worker.version)

        def submit(future: Future[Any]) -> Prepared:
            prepared = self._intake.to_score(prompt)
            self._worker.submit(Work(Score(prepared.sequence, prepared.views), future))
            return prepared

        prepared, result = await self._done(submit)
        return Scored(with_logprobs(prepared.segments, result.logprobs), self._intake.info(result.version))

    async def info(self) -> PolicyInfo:
        return self._intake.info(self._worker.version)

    async def state(self) -> PolicyState:
        """Asked of the process that has the model."""
        work = Work(Ask())
        try:
            await asyncio.to_thread(self._worker.submit, work)
            alive: Alive = await asyncio.wrap_future(work.future)
        except PolicyError as error:
            log.error("the engine of policy %s does not answer: %s", self._name, error.message)
            return PolicyState.FAILED
        return PolicyState.UPDATING if alive.updating else PolicyState.SERVING

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """As the protocol says; the version that is loaded already changes nothing, an older one is refused.

        Raises PolicyError (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER, WEIGHTS_MISMATCH, WEIGHTS_UNREADABLE),
        StorageError.
        """
        self._intake.check_update(version, run_id, self._worker.version)
        if version > self._worker.version:
            version, uri = await asyncio.to_thread(self._intake.wanted, version, uri)
            work = Work(LoadWeights(version, uri))
            await asyncio.to_thread(self._worker.submit, work)
            loaded: LoadedWeights = await asyncio.wrap_future(work.future)
            self._metrics.version(loaded.version)
            self._metrics.updated(loaded.seconds)
        return await self.info()

    async def close(self) -> None:
        """Finish the batch in flight, refuse what waits, end the worker."""
        # Not one of the loop's own threads, which all wait where the engine hangs and takes no more orders.
        with ThreadPoolExecutor(1) as ending:
            await asyncio.get_running_loop().run_in_executor(ending, self._worker.stop)

    async def _generated(
        self,
        prompt: Sequence[Segment],
        seeds: tuple[int, ...],
        sampling: Sampling,
        asked: float,
        hear: Callable[[Prepared, News], None] | None = None,
    ) -> tuple[Prepared, Generated]:
        """Completions, counted; `hear` is called on the event loop, for one sample only."""
        loop = asyncio.get_running_loop()

        def tell(prepared: Prepared, news: News) -> None:
            if hear is not None:
                # A loop that has closed hears nothing any more.
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(hear, prepared, news)

        def submit(future: Future[Any]) -> Prepared:
            prepared, possible = self._intake.to_generate(prompt, sampling)
            order = Generate(prepared.sequence, seeds, possible, prepared.views, streamed=hear is not None)
            self._worker.submit(Work(order, future, partial(tell, prepared)))
            return prepared

        result: Generated
        with self._metrics.in_flight(len(seeds)):
            prepared, result = await self._done(submit)
        for completion in result.completions:
            self._metrics.answered(completion, result.started - asked, result.first_token - asked)
        self._metrics.prompt(len(prepared.sequence), 0)
        self._metrics.images(len(prepared.sequence.image_spans))
        return prepared, result

    async def _done(self, submit: Callable[[Future[Any]], Prepared]) -> tuple[Prepared, Any]:
        """What `submit` has prepared and submitted, off the event loop, and the answer to it."""
        future: Future[Any] = Future()
        try:
            prepared = await asyncio.to_thread(submit, future)
            return prepared, await asyncio.wrap_future(future)
        finally:
            # A caller that leaves takes its work along; once there is an answer this does nothing.
            future.cancel()
