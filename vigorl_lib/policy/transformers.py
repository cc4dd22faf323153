"""The embedded policy engine: transformers behind the Policy protocol.

Requests are checked, rendered and their images decoded off the event loop (`vigorl_lib.policy.intake`), then handed
to the worker thread that owns the model (`vigorl_lib.policy.worker`) and batches whatever waits. Throughput on a
large GPU is not this engine's aim.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.weights import assign_weights, fetch_weights, wanted_weights
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
from vigorl_lib.policy.decoding import DecodeRequest
from vigorl_lib.policy.intake import Intake, with_logprobs
from vigorl_lib.policy.metrics import PolicyMetrics
from vigorl_lib.policy.worker import EngineWorker, GenerateWork, Load, LoadWork, ScoreWork


class TransformersPolicy:
    """Policy on a loaded model. `open` is the usual way to get one; `close` ends its thread."""

    def __init__(self, loaded: LoadedModel, config: PolicyConfig, *, version: int = 0) -> None:
        text_config = loaded.model.config.get_text_config()
        self._intake = Intake(
            config,
            loaded.renderer,
            loaded.family,
            vocabulary=text_config.vocab_size,
            trained_context=text_config.max_position_embeddings,
        )
        self._worker = EngineWorker(loaded, config, version=version)
        self._metrics = PolicyMetrics(config.name)
        self._metrics.version(version)

    @classmethod
    def open(cls, config: PolicyConfig) -> TransformersPolicy:
        """Load the checkpoint and, with a weights root, the version that `CURRENT` names. Blocks."""
        loaded = load_model(config.model, dtype=config.dtype, device=config.device, max_pixels=config.max_image_pixels)
        version = 0
        if config.weights_root and (current := wanted_weights(config.weights_root)) is not None:
            version = current.version
            assign_weights(loaded.model, fetch_weights(current.uri))
        return cls(loaded, config, version=version)

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
            prepared, sampling = await asyncio.to_thread(self._intake.to_generate, prompt, sampling)
            work = GenerateWork(DecodeRequest(prepared.sequence, tuple(seeds), sampling, prepared.views))
            self._worker.submit(work)
            result = await asyncio.wrap_future(work.future)
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
        """As the protocol says; the completion comes in one piece, since a batch answers when it is done."""
        return stream_whole(self, prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        self._intake.check_version(min_policy_version, self._worker.version)
        prepared = await asyncio.to_thread(self._intake.to_score, prompt)
        work = ScoreWork(prepared.sequence, prepared.views)
        self._worker.submit(work)
        result = await asyncio.wrap_future(work.future)
        return Scored(with_logprobs(prepared.segments, result.logprobs), self._intake.info(result.version))

    async def info(self) -> PolicyInfo:
        return self._intake.info(self._worker.version)

    async def state(self) -> PolicyState:
        return PolicyState.SERVING if self._worker.alive else PolicyState.FAILED

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """As the protocol says; the version that is loaded already changes nothing, an older one is refused.

        Raises PolicyError (NOT_TRAINABLE, WRONG_RUN, WEIGHTS_OLDER, WEIGHTS_MISMATCH, WEIGHTS_UNREADABLE),
        StorageError.
        """
        self._intake.check_update(version, run_id, self._worker.version)
        if version > self._worker.version:
            version, uri = await asyncio.to_thread(self._intake.wanted, version, uri)
            work = LoadWork(version, await asyncio.to_thread(fetch_weights, uri))
            begin = time.monotonic()
            self._worker.submit(work)
            self._metrics.version(await asyncio.wrap_future(work.future))
            self._metrics.updated(time.monotonic() - begin)
        return await self.info()

    @property
    def load(self) -> Load:
        """How busy the engine is now."""
        return self._worker.load

    async def close(self) -> None:
        """Finish the batch in flight, refuse what waits, end the thread."""
        await asyncio.to_thread(self._worker.stop)
