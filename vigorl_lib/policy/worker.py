"""The thread that owns a model: takes what waits, runs it as one batch, answers each request when it is done.

Requests come in as prepared work and go out through futures; a future that its caller cancelled is dropped at the
next token. New weights are loaded between batches, before anything that still waits, so what is in flight
finishes on the version that it began with. Preparing requests is `vigorl_lib.policy.transformers`, the arithmetic
is `vigorl_lib.policy.decoding`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, set_num_threads

from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.models.loading import LoadedModel
from vigorl_lib.models.pixels import View
from vigorl_lib.models.weights import assign_weights
from vigorl_lib.policy.base import Completion, FinishReason
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.decoding import Decoder, DecodeRequest, Row

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """Completions in the order of the seeds; `started` and `finished` are `time.monotonic` seconds."""

    completions: tuple[Completion, ...]
    started: float
    finished: float


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """One log-probability per token, and the version of the weights that gave them."""

    logprobs: list[float]
    version: int


@dataclass(slots=True, eq=False)
class GenerateWork:
    request: DecodeRequest
    future: Future[GenerateResult] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(self.request.seeds)


@dataclass(slots=True, eq=False)
class ScoreWork:
    sequence: TokenSequence
    views: dict[str, View]
    future: Future[ScoreResult] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return 1


@dataclass(slots=True, eq=False)
class LoadWork:
    """`future` resolves to the version that is loaded afterwards."""

    version: int
    tensors: dict[str, Tensor]
    future: Future[int] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Load:
    """Samples that wait for a batch and samples that are in one."""

    waiting: int
    running: int


class EngineWorker:
    """Runs one loaded model in a thread of its own, from construction until `stop`."""

    def __init__(self, loaded: LoadedModel, config: PolicyConfig, *, version: int) -> None:
        self._loaded = loaded
        self._config = config
        self._decoder = Decoder(loaded, feature_cache_bytes=config.feature_cache_bytes)
        self._version = version
        self._queue: deque[GenerateWork | ScoreWork] = deque()
        self._loads: deque[LoadWork] = deque()
        self._wake = threading.Condition()
        self._running = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"policy-{config.name}", daemon=True)
        self._thread.start()

    @property
    def version(self) -> int:
        """Version of the weights that the next batch will run on."""
        return self._version

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def load(self) -> Load:
        with self._wake:
            return Load(sum(work.rows for work in self._queue), self._running)

    def submit(self, work: GenerateWork | ScoreWork | LoadWork) -> None:
        """Queue some work. Raises PolicyError (ENGINE_CLOSED, OVERLOADED)."""
        with self._wake:
            if self._closing:
                raise self._closed()
            if isinstance(work, LoadWork):
                self._loads.append(work)
            else:
                self._admit(work)
            self._wake.notify()

    def stop(self) -> None:
        """Finish the batch in flight, refuse what waits, end the thread. Blocks."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _admit(self, work: GenerateWork | ScoreWork) -> None:
        waiting = sum(other.rows for other in self._queue)
        if waiting + work.rows > self._config.max_queued:
            raise PolicyError(
                f"policy {self._config.name} has {waiting} samples waiting; try again later",
                reason="OVERLOADED",
                infrastructure=True,
            )
        self._queue.append(work)

    def _run(self) -> None:
        if self._loaded.model.device.type == "cpu":
            set_num_threads(self._config.threads)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._loads or self._closing)
                if self._closing:
                    break
                loads = list(self._loads)
                self._loads.clear()
                batch = self._take_batch()
                self._running = sum(work.rows for work in batch)
            for load in loads:
                self._load_weights(load)
            if generations := [work for work in batch if isinstance(work, GenerateWork)]:
                self._generate(generations)
            if scores := [work for work in batch if isinstance(work, ScoreWork)]:
                self._score(scores)
            # Those that were cancelled or failed have not been counted down.
            self._running = 0
        for work in (*self._queue, *self._loads):
            _fail(work.future, self._closed())

    def _take_batch(self) -> list[GenerateWork | ScoreWork]:
        batch: list[GenerateWork | ScoreWork] = []
        rows = 0
        while self._queue:
            work = self._queue[0]
            if not work.future.cancelled():
                rows += work.rows
                if batch and rows > self._config.max_batch:
                    break
                batch.append(work)
            self._queue.popleft()
        return batch

    def _load_weights(self, load: LoadWork) -> None:
        if load.version > self._version:
            try:
                assign_weights(self._loaded.model, load.tensors)
            except Exception as error:  # noqa: BLE001 - told to the caller; the old weights go on serving
                _fail(load.future, self._translated(error))
                return
            self._decoder.weights_changed()
            self._version = load.version
        # Otherwise two callers told of one version, or a newer one overtook it on the way from storage.
        _resolve(load.future, self._version)

    def _generate(self, batch: list[GenerateWork]) -> None:
        started, version = time.monotonic(), self._version

        def finished(index: int, rows: list[Row]) -> None:
            completions = tuple(self._completion(row, version) for row in rows)
            self._running -= len(rows)
            _resolve(batch[index].future, GenerateResult(completions, started, time.monotonic()))

        try:
            self._decoder.generate(
                [work.request for work in batch],
                on_finished=finished,
                cancelled=lambda index: batch[index].future.cancelled(),
            )
        except Exception as error:  # noqa: BLE001 - told to every caller of the batch; the thread must live on
            self._fail_all(batch, error)

    def _score(self, batch: list[ScoreWork]) -> None:
        views = {digest: view for work in batch for digest, view in work.views.items()}
        try:
            results = self._decoder.score([work.sequence for work in batch], views)
        except Exception as error:  # noqa: BLE001 - told to every caller of the batch; the thread must live on
            self._fail_all(batch, error)
            return
        for work, logprobs in zip(batch, results, strict=True):
            self._running -= 1
            _resolve(work.future, ScoreResult(logprobs, self._version))

    def _completion(self, row: Row, version: int) -> Completion:
        reason = row.finish or FinishReason.ABORTED
        text = self._decoder.stops.text(row.token_ids, row.sampling.stop, reason)
        return Completion(text, tuple(row.token_ids), tuple(row.logprobs), reason, version, tuple(row.top_logprobs))

    def _fail_all(self, batch: list[GenerateWork] | list[ScoreWork], error: Exception) -> None:
        failure = self._translated(error)
        for work in batch:
            _fail(work.future, failure)

    def _translated(self, error: Exception) -> VigorlError:
        if isinstance(error, VigorlError):
            return error
        log.error("the engine of policy %s failed", self._config.name, exc_info=error)
        return PolicyError(
            f"the engine of policy {self._config.name} failed: {type(error).__name__}",
            reason="ENGINE_FAILED",
            infrastructure=True,
        )

    def _closed(self) -> PolicyError:
        return PolicyError(f"policy {self._config.name} is shutting down", reason="ENGINE_CLOSED", infrastructure=True)


def _resolve(future: Future[Any], value: object) -> None:
    try:
        future.set_result(value)
    except InvalidStateError:
        log.debug("a caller left before its result")


def _fail(future: Future[Any], error: Exception) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:
        log.debug("a caller left before its error")
