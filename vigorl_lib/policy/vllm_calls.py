"""Calls to a running vLLM engine, the same whatever is asked: admission, failures translated, an honest state.

What a prompt and an answer look like is for the callers (`vigorl_lib.policy.vllm`, `vigorl_lib.policy.vllm_generic`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import PolicyState, engine_closed, engine_dead
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.metrics import PolicyMetrics

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

    from vigorl_lib.policy.vllm_engine import LaunchedEngine

log = logging.getLogger(__name__)

T = TypeVar("T")
MakeInputs = Callable[[], Awaitable[Any]]


class EngineCalls:
    """One engine, for one event loop. It takes no call after `close`."""

    def __init__(self, launched: LaunchedEngine, config: PolicyConfig, metrics: PolicyMetrics) -> None:
        self._launched: LaunchedEngine | None = launched
        self._config = config
        self._metrics = metrics
        self._samples = 0
        self._numbers = itertools.count()

    @property
    def engine(self) -> AsyncLLM:
        """Raises PolicyError (ENGINE_CLOSED)."""
        if self._launched is None:
            raise engine_closed(self._config.name)
        return self._launched.engine

    @asynccontextmanager
    async def admitted(self, samples: int) -> AsyncIterator[None]:
        """Room for some samples. Raises PolicyError (OVERLOADED, ENGINE_FAILED, ENGINE_CLOSED)."""
        if self.engine.errored:
            raise engine_dead(self._config.name)
        limit = self._config.max_batch + self._config.max_queued
        if self._samples + samples > limit:
            raise PolicyError(
                f"policy {self._config.name} has {self._samples} samples in flight of at most {limit}; try later",
                reason="OVERLOADED",
                infrastructure=True,
            )
        self._samples += samples
        try:
            with self._metrics.in_flight(samples):
                yield
        finally:
            self._samples -= samples

    async def whole(self, inputs: Any, make_inputs: MakeInputs, params: Any, request_id: str) -> RequestOutput:
        """The only output of a request. Raises PolicyError (GENERATION_ABORTED) if it had none."""
        async with aclosing(self.outputs(inputs, make_inputs, params, request_id)) as outputs:
            async for output in outputs:
                return output
        raise PolicyError("the engine ended a request without an answer", reason="GENERATION_ABORTED")

    async def outputs(
        self, inputs: Any, make_inputs: MakeInputs, params: Any, request_id: str
    ) -> AsyncGenerator[RequestOutput]:
        """What vLLM answers, its failures translated. Leaving the loop aborts the request in the engine.

        Raises PolicyError (ENGINE_FAILED, ENGINE_CLOSED, GENERATION_FAILED, PROMPT_INVALID).
        """
        from vllm.exceptions import VLLMClientError, VLLMServerError
        from vllm.v1.engine.exceptions import EngineDeadError

        for last_try in (False, True):
            name, failed = f"{request_id or 'request'}-{next(self._numbers)}", False
            try:
                async with aclosing(self.engine.generate(inputs, params, name)) as outputs:
                    async for output in outputs:
                        failed = any(piece.finish_reason == "error" for piece in output.outputs)
                        if failed:
                            break
                        yield output
            except VLLMClientError as error:
                raise PolicyError(str(error), reason="PROMPT_INVALID") from error
            except (EngineDeadError, VLLMServerError) as error:
                raise (engine_dead(self._config.name) if self.engine.errored else self._failed()) from error
            if not failed:
                return
            if last_try:
                raise self._failed()
            # A caller who left between processing an image and sending it leaves a hole in the engine's cache of
            # processed images; vLLM notices before it samples, forgets the image, and wants it once more.
            inputs = await make_inputs()

    async def state(self) -> PolicyState:
        """Asked of the engine itself: SERVING if it answers."""
        if self.engine.errored:
            return PolicyState.FAILED
        try:
            paused = await self.engine.is_paused()
        except Exception as error:  # noqa: BLE001 - whatever it is, the engine did not answer
            log.error("the engine of policy %s does not answer: %s", self._config.name, error)
            return PolicyState.FAILED
        return PolicyState.UPDATING if paused else PolicyState.SERVING

    async def close(self) -> None:
        """End the engine's processes; what is in flight is lost, so drain first."""
        if self._launched is None:
            return
        launched, self._launched = self._launched, None
        # It would take the end of the processes for a failure, and log it as one.
        if launched.engine.output_handler is not None:
            launched.engine.output_handler.cancel()
        await asyncio.to_thread(launched.close)

    def _failed(self) -> PolicyError:
        return PolicyError(
            f"the engine of policy {self._config.name} failed on this request; its log has the reason",
            reason="GENERATION_FAILED",
        )


async def gather_all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure ends the others, and is the one that is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        results: list[T] = await asyncio.gather(*tasks)
        return results
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
