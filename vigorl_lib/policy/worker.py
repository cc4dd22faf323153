"""The thread that owns a model: takes what waits into its batch, answers each request when it is done.

Orders come in as `vigorl_lib.policy.work` and are answered through futures; one that its caller cancelled is dropped
at the next token. They join a batch that is under way, so that nobody waits for the longest answer of others. New
weights are fetched beside the batch and loaded when it has emptied, before anything that still waits, so what is in
flight finishes on the version that it began with. Preparing requests is `vigorl_lib.policy.transformers`, the
arithmetic is `vigorl_lib.policy.decoding`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, set_num_threads

from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.models.loading import LoadedModel, load_model
from vigorl_lib.models.weights import assign_weights, fetch_weights, wanted_weights
from vigorl_lib.policy.base import Completion, FinishReason, Sampling, engine_closed
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.decoding import Decoder, Group, Row
from vigorl_lib.policy.work import (
    Alive,
    Ask,
    Checkpoint,
    Drawn,
    Generate,
    Generated,
    Joined,
    LoadedWeights,
    LoadWeights,
    Score,
    ScoredTokens,
    Work,
)

log = logging.getLogger(__name__)


JOIN_SHARE = 0.5
"""Orders join a batch under way once they have this share of its samples. A prefill holds up all of those, and padding
to the longest of them costs at every token."""
JOIN_STEPS = 32
"""... or once they have waited for this many of its tokens."""


@dataclass(slots=True)
class _Making:
    """An order in the batch, and since when, in seconds of `time.monotonic`; its first token is 0 until it is drawn."""

    work: Work
    started: float
    first_token: float = 0.0


@dataclass(frozen=True, slots=True)
class _Loading:
    """Weights that have come from storage, at a time of `time.monotonic`."""

    work: Work
    version: int
    tensors: dict[str, Tensor]
    since: float


class EngineWorker:
    """Runs one loaded model in a thread of its own, from construction until `stop`."""

    def __init__(self, loaded: LoadedModel, config: PolicyConfig, *, version: int = 0) -> None:
        text_config = loaded.model.config.get_text_config()
        self.checkpoint = Checkpoint(
            loaded.renderer, loaded.family, text_config.vocab_size, text_config.max_position_embeddings
        )
        self._loaded = loaded
        self._config = config
        self._decoder = Decoder(loaded, feature_cache_bytes=config.feature_cache_bytes)
        self._version = version
        self._queue: deque[tuple[Work, Generate | Score]] = deque()
        self._loads: deque[_Loading] = deque()
        self._wake = threading.Condition()
        self._making: dict[Group, _Making] = {}
        self._steps_waited = 0
        self._updating = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"policy-{config.name}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, config: PolicyConfig) -> EngineWorker:
        """Load the checkpoint and, with a weights root, the version that `CURRENT` names. Blocks.

        Raises PolicyError (CHECKPOINT_…, WEIGHTS_…), StorageError.
        """
        loaded = load_model(config.model, dtype=config.dtype, device=config.device, max_pixels=config.max_image_pixels)
        version = 0
        if config.weights_root and (current := wanted_weights(config.weights_root)) is not None:
            version = current.version
            assign_weights(loaded.model, fetch_weights(current.uri))
        return cls(loaded, config, version=version)

    @property
    def version(self) -> int:
        """Version of the weights that the next batch will run on."""
        return self._version

    def submit(self, work: Work) -> None:
        """See `Worker.submit`."""
        with self._wake:
            if self._closing:
                raise engine_closed(self._config.name)
            match work.order:
                case LoadWeights() as order:
                    threading.Thread(target=self._fetch, args=(work, order), daemon=True).start()
                case Ask():
                    work.resolve(Alive(updating=self._updating or bool(self._loads)))
                case order:
                    self._admit(work, order)
            self._wake.notify()

    def stop(self) -> None:
        """Finish the batch in flight, refuse what waits, end the thread. Blocks."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _admit(self, work: Work, order: Generate | Score) -> None:
        waiting = sum(other.rows for _, other in self._queue)
        if waiting + order.rows > self._config.max_queued:
            raise PolicyError(
                f"policy {self._config.name} has {waiting} samples waiting; try again later",
                reason="OVERLOADED",
                infrastructure=True,
            )
        self._queue.append((work, order))

    def _fetch(self, work: Work, order: LoadWeights) -> None:
        """Runs in a thread of its own, for storage may be slow."""
        try:
            tensors = fetch_weights(order.uri) if order.version > self._version else {}
        except Exception as error:  # noqa: BLE001 - told to the caller
            work.fail(self._translated(error))
            return
        with self._wake:
            if not self._closing:
                self._loads.append(_Loading(work, order.version, tensors, time.monotonic()))
                self._wake.notify()
                return
        work.fail(engine_closed(self._config.name))

    def _work(self) -> None:
        failure: VigorlError = engine_closed(self._config.name)
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - a fault of ours: whoever waits, or asks later, hears of the end
            failure = self._translated(error)
        with self._wake:
            self._closing = True
        making = [making.work for making in self._making.values()]
        for work in [*making, *(work for work, _ in self._queue), *(load.work for load in self._loads)]:
            work.fail(failure)

    def _run(self) -> None:
        if self._loaded.model.device.type == "cpu":
            set_num_threads(self._config.threads)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._making or self._queue or self._loads or self._closing)
                if self._closing and not self._making:
                    break
                loads = self._take_loads()
                taken = self._take()
            while loads:
                # Taken out, for it holds a whole set of weights.
                self._load_weights(loads.popleft())
            self._updating = False
            if orders := [(work, order) for work, order in taken if isinstance(order, Generate)]:
                self._join(orders)
            if scores := [(work, order) for work, order in taken if isinstance(order, Score)]:
                self._score(scores)
            if self._making:
                self._step()

    def _take_loads(self) -> deque[_Loading]:
        """New weights, as soon as nothing is in flight."""
        if self._making:
            return deque()
        loads, self._loads = self._loads, deque()
        self._updating = bool(loads)
        return loads

    def _take(self) -> list[tuple[Work, Generate | Score]]:
        """What joins now: in its order, as much as fits."""
        if self._closing or self._loads or not self._may_join():
            return []
        taken: list[tuple[Work, Generate | Score]] = []
        rows = self._decoder.rows
        while self._queue:
            work, order = self._queue[0]
            if not work.future.cancelled():
                if rows and rows + order.rows > self._config.max_batch:
                    break
                rows += order.rows
                taken.append((work, order))
            self._queue.popleft()
        if taken:
            self._steps_waited = 0
        return taken

    def _may_join(self) -> bool:
        rows = self._decoder.rows
        if not rows:
            return True
        waiting = sum(order.rows for _, order in self._queue)
        late = self._steps_waited >= JOIN_STEPS
        return bool(waiting) and (late or waiting >= JOIN_SHARE * rows)

    def _load_weights(self, load: _Loading) -> None:
        if load.version > self._version:
            try:
                assign_weights(self._loaded.model, load.tensors)
            except Exception as error:  # noqa: BLE001 - told to the caller; the old weights go on serving
                load.work.fail(self._translated(error))
                return
            self._decoder.weights_changed()
            self._version = load.version
        # Otherwise two callers told of one version, or a newer one overtook it on the way from storage.
        load.work.resolve(LoadedWeights(self._version, time.monotonic() - load.since))

    def _join(self, taken: Sequence[tuple[Work, Generate]]) -> None:
        started = time.monotonic()
        try:
            groups = self._decoder.join([order for _, order in taken])
        except Exception as error:  # noqa: BLE001 - told to those who were to join; the others go on
            self._fail_all([work for work, _ in taken], error)
            return
        for group, (work, order) in zip(groups, taken, strict=True):
            self._making[group] = _Making(work, started)
            if order.streamed:
                work.hear(Joined(self._version))

    def _step(self) -> None:
        try:
            completed = self._decoder.draw()
            drawn = time.monotonic()
            for group, making in self._making.items():
                making.first_token = making.first_token or drawn
                if group.order.streamed and not group.done:
                    (row,) = group.rows
                    making.work.hear(Drawn(row.token_ids[-1], row.logprobs[-1]))
            for group in completed:
                making = self._making.pop(group)
                completions = tuple(self._completion(group.order.sampling, row) for row in group.rows)
                making.work.resolve(Generated(completions, making.started, making.first_token, drawn))
            for group in [group for group, making in self._making.items() if making.work.future.cancelled()]:
                del self._making[group]
                group.abort()
            self._decoder.advance()
        except Exception as error:  # noqa: BLE001 - told to every caller of the batch; the thread must live on
            self._decoder.clear()
            self._fail_all([making.work for making in self._making.values()], error)
            self._making.clear()
        if self._queue:
            self._steps_waited += 1

    def _score(self, batch: Sequence[tuple[Work, Score]]) -> None:
        works = [work for work, _ in batch]
        views = {digest: view for _, order in batch for digest, view in order.views.items()}
        try:
            results = self._decoder.score([order.sequence for _, order in batch], views)
        except Exception as error:  # noqa: BLE001 - told to every caller of the batch; the thread must live on
            self._fail_all(works, error)
            return
        for work, logprobs in zip(works, results, strict=True):
            work.resolve(ScoredTokens(logprobs, self._version))

    def _completion(self, sampling: Sampling, row: Row) -> Completion:
        reason = row.finish or FinishReason.ABORTED
        text = self._decoder.stops.text(row.token_ids, sampling.stop, reason)
        ids, logprobs = tuple(row.token_ids), tuple(row.logprobs)
        return Completion(text, ids, logprobs, reason, self._version, tuple(row.top_logprobs))

    def _fail_all(self, works: Sequence[Work], error: Exception) -> None:
        failure = self._translated(error)
        for work in works:
            work.fail(failure)

    def _translated(self, error: Exception) -> VigorlError:
        if isinstance(error, VigorlError):
            return error
        log.error("the engine of policy %s failed", self._config.name, exc_info=error)
        return PolicyError(
            f"the engine of policy {self._config.name} failed: {type(error).__name__}",
            reason="ENGINE_FAILED",
            infrastructure=True,
        )
