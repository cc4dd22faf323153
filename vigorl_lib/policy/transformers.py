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
    StreamEvent,
    stream_whole,
)
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.intake import Intake, Prepared, with_logprobs
from vigorl_lib.policy.metrics import PolicyMetrics
from vigorl_lib.policy.work import Alive, Ask, Generate, LoadedWeights, LoadWeights, Score, Work, Worker
from vigorl_lib.policy.worker_process import WorkerProcess

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
        with self._metrics.in_flight(len(seeds)):

            def submit(future: Future[Any]) -> Prepared:
                prepared, possible = self._intake.to_generate(prompt, sampling)
                order = Generate(prepared.sequence, tuple(seeds), possible, prepared.views)
                self._worker.submit(Work(order, future))
                return prepared

            prepared, result = await self._done(submit)
        for completion in result.completions:
            self._metrics.answered(completion, result.started - asked)
        self._metrics.prompt(len(prepared.sequence), 0)
        self._metrics.images(len(prepared.sequence.image_spans))
        return Generation(
            prompt=prepared.segments,
            completions=result.completions,
            policy=self._intake.info(result.completions[0].policy_version),
            queue_seconds=result.started - asked,
            engine_seconds=result.finished - result.started,
        )

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        """As the protocol says; the completion comes in one piece."""
        return stream_whole(self, prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version)

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

    async def _done(self, submit: Callable[[Future[Any]], Prepared]) -> tuple[Prepared, Any]:
        """What `submit` has prepared and submitted, off the event loop, and the answer to it."""
        future: Future[Any] = Future()
        try:
            prepared = await asyncio.to_thread(submit, future)
            return prepared, await asyncio.wrap_future(future)
        finally:
            # A caller that leaves takes its work along; once there is an answer this does nothing.
            future.cancel()
