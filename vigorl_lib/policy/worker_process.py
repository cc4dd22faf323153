"""An engine worker in a process of its own, driven over a pipe.

An engine's steps and a service's event loop would take turns on one interpreter; apart, each has its own. What goes
over the pipe is an order of `vigorl_lib.policy.work` under a number, and its news, answer or error under the same one.
The process ends with its parent, whose end of the pipe it watches; its own end is told to everyone who waits for it.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from vigorl_lib.errors import PolicyError, VigorlError
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.policy.base import engine_closed, engine_dead
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.progress import loading_progress
from vigorl_lib.policy.work import Answer, Ask, Checkpoint, Drawn, Joined, LoadedWeights, LoadWeights, News, Order, Work
from vigorl_lib.rpc.logs import setup_logging
from vigorl_lib.rpc.loop import COLLECTOR

if TYPE_CHECKING:
    from vigorl_lib.policy.worker import EngineWorker

log = logging.getLogger(__name__)

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 29), "MALLOC_TRIM_THRESHOLD_": str(1 << 29)}
"""Unless the process's surroundings say otherwise. A KV cache is copied at every step; by default glibc gives each copy
back to the system and fetches fresh pages for the next one."""

STOP_S = 30.0
"""What the process gets to finish the batch in flight when it is told to stop, seconds."""


@dataclass(frozen=True, slots=True)
class _Start:
    config: PolicyConfig
    log_level: int


@dataclass(frozen=True, slots=True)
class _Ready:
    checkpoint: Checkpoint
    version: int


@dataclass(frozen=True, slots=True)
class _Cancel:
    """The order of the same number is no longer wanted."""


@dataclass(frozen=True, slots=True)
class _Stop:
    """Finish the batch in flight and end."""


class WorkerProcess:
    """`Worker` in a process that this one starts, and that has loaded the model when the constructor returns."""

    def __init__(self, config: PolicyConfig) -> None:
        """Raises what `EngineWorker.open` raises, PolicyError (ENGINE_FAILED)."""
        self._name = config.name
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Work] = {}
        self._writing = threading.Lock()
        self._cancelling = ThreadPoolExecutor(1)
        self._stopping = False
        self._ended = False
        # Not as a main module, whose classes would be others than those that come over the pipe.
        command = [sys.executable, "-c", f"from {__name__} import main; main()"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT | os.environ
        )
        self._orders = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        try:
            # One that ended at once is found by what it does not answer.
            with suppress(OSError):
                self._write(_Start(config, logging.getLogger().getEffectiveLevel()))
            with loading_progress(config):
                ready = self._first_answer()
        except BaseException:
            self._kill()
            self._answers.close()
            raise
        self.checkpoint, self._version = ready.checkpoint, ready.version
        self._reader = threading.Thread(target=self._read, name=f"policy-{config.name}", daemon=True)
        self._reader.start()

    @property
    def version(self) -> int:
        """As of the last weights that the process said it has."""
        return self._version

    def submit(self, work: Work) -> None:
        """See `Worker.submit`. Blocks while the pipe is full."""
        if self._stopping:
            raise engine_closed(self._name)
        number = next(self._numbers)
        self._waiting[number] = work
        try:
            self._write((number, _without_data(work.order)))
        except OSError as error:
            self._waiting.pop(number, None)
            raise self._gone() from error
        if self._ended:
            # Its end may have been told to everyone else just before.
            work.fail(self._gone())
        if not isinstance(work.order, LoadWeights):
            # Weights are loaded also where the caller has left, and the answer says which.
            work.future.add_done_callback(lambda future: self._cancel(number) if future.cancelled() else None)

    def stop(self) -> None:
        """See `Worker.stop`; a process that has not ended after `STOP_S` is killed."""
        if self._stopping:
            return
        self._stopping = True
        # In a thread: a process that hangs reads nothing, and writing to it would not return.
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(STOP_S)
        if self._process.poll() is None:
            log.warning("the engine of policy %s did not stop within %.0f s and is killed", self._name, STOP_S)
        self._kill()
        self._reader.join()
        self._answers.close()

    def _end(self) -> None:
        with suppress(OSError):
            self._write((0, _Stop()))
        self._process.wait()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._cancelling.shutdown(wait=False)
        # Whoever waited to write has failed by now.
        with self._writing, suppress(OSError):
            self._orders.close()

    def _code(self) -> int:
        """The exit code of a process that has said its last word."""
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _first_answer(self) -> _Ready:
        try:
            first: _Ready | VigorlError = _read_one(self._answers)
        except EOFError:
            raise PolicyError(
                f"the engine of policy {self._name} ended with code {self._code()} while it loaded; "
                "its log has the reason",
                reason="ENGINE_FAILED",
            ) from None
        if isinstance(first, VigorlError):
            raise first
        return first

    def _write(self, message: object) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self._writing:
            if self._orders.closed:
                raise BrokenPipeError
            self._orders.write(data)
            self._orders.flush()

    def _cancel(self, number: int) -> None:
        if self._waiting.pop(number, None) is not None:
            # Not here, on an event loop: the process may hang, and nothing be read. After the end there is nobody to
            # tell.
            with suppress(RuntimeError):
                self._cancelling.submit(self._tell_cancelled, number)

    def _tell_cancelled(self, number: int) -> None:
        with suppress(OSError):
            self._write((number, _Cancel()))

    def _read(self) -> None:
        """Runs in a thread of its own until the process ends."""
        while True:
            try:
                number, answer = _read_one(self._answers)
            except EOFError:
                break
            if isinstance(answer, Joined | Drawn):
                self._heard(number, answer)
            else:
                self._answered(number, answer)
        self._ended = True
        if not self._stopping:
            log.error("the engine of policy %s has ended with code %s", self._name, self._code())
        for number in list(self._waiting):
            if (work := self._waiting.pop(number, None)) is not None:
                work.fail(self._gone())

    def _heard(self, number: int, news: News) -> None:
        # None if it was cancelled while the news was on its way.
        if (work := self._waiting.get(number)) is not None:
            work.hear(news)

    def _answered(self, number: int, answer: Answer | Exception) -> None:
        if isinstance(answer, LoadedWeights):
            self._version = answer.version
        # None if it was cancelled while the answer was on its way.
        if (work := self._waiting.pop(number, None)) is None:
            return
        if isinstance(answer, Exception):
            work.fail(answer)
        else:
            work.resolve(answer)

    def _gone(self) -> PolicyError:
        return engine_closed(self._name) if self._stopping else engine_dead(self._name)


def _without_data(order: Order) -> Order:
    """Encoded images stay behind; their views go along."""
    if isinstance(order, LoadWeights | Ask):
        return order
    sequence = order.sequence
    spans = tuple(replace(span, image=span.image.without_data()) for span in sequence.image_spans)
    return replace(order, sequence=TokenSequence(sequence.token_ids, spans))


def _read_one(pipe: IO[bytes]) -> Any:
    """The next message of the other process. Raises EOFError when it has ended, or when nothing can be made of it."""
    try:
        return pickle.load(pipe)  # noqa: S301 - written by a process of our own, never from outside
    except EOFError:
        raise
    except Exception as error:
        log.warning("nothing more can be read of the pipe to an engine: %r", error)
        raise EOFError from error


class _Child:
    """The other end of the pipe: a worker that is told what to do, in this process."""

    def __init__(self, orders: IO[bytes], answers: IO[bytes]) -> None:
        self._orders = orders
        self._answers = answers
        self._writing = threading.Lock()
        self._works: dict[int, Work] = {}
        self._stop = threading.Event()

    def run(self) -> None:
        from vigorl_lib.policy.worker import EngineWorker

        start: _Start = self._next()
        setup_logging("policy", start.log_level)
        gc.set_threshold(*COLLECTOR)
        loaded: Future[EngineWorker] = Future()
        # Reads while the model is loading too: a parent that ends then wants no model.
        threading.Thread(target=self._take_orders, args=(loaded,), daemon=True).start()
        try:
            worker = EngineWorker.open(start.config)
        except VigorlError as error:
            self._write(error)
            return
        # What was loaded stays; no collection need look at it again.
        gc.freeze()
        loaded.set_result(worker)
        self._write(_Ready(worker.checkpoint, worker.version))
        self._stop.wait()
        worker.stop()

    def _take_orders(self, loaded: Future[EngineWorker]) -> None:
        try:
            while True:
                number, order = self._next()
                match order:
                    case _Stop():
                        self._stop.set()
                    case _Cancel():
                        if (work := self._works.get(number)) is not None:
                            work.future.cancel()
                    case _:
                        hear = partial(self._tell, number)
                        self._begin(loaded.result(), number, Work(order, hear=hear))
        except Exception as error:
            log.error("the engine takes no more orders", exc_info=error)
            _leave()

    def _begin(self, worker: EngineWorker, number: int, work: Work) -> None:
        self._works[number] = work
        work.future.add_done_callback(lambda future: self._done(number, future))
        try:
            worker.submit(work)
        except PolicyError as error:
            work.fail(error)

    def _tell(self, number: int, news: News) -> None:
        self._write((number, news))

    def _done(self, number: int, future: Future[Answer]) -> None:
        self._works.pop(number, None)
        if not future.cancelled():
            self._write((number, future.exception() or future.result()))

    def _next(self) -> Any:
        try:
            return _read_one(self._orders)
        except EOFError:
            _leave()

    def _write(self, message: object) -> None:
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            with self._writing:
                self._answers.write(data)
                self._answers.flush()
        except OSError:
            _leave()


def _leave() -> NoReturn:
    """Nobody hears any more of what is done here, whatever the other threads are at."""
    os._exit(1)


def main() -> None:
    # The parent decides when this ends; at a terminal both hear of Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _Child(sys.stdin.buffer, answers).run()
    except BaseException as error:
        log.critical("the engine cannot go on", exc_info=error)
        os._exit(1)
    # An orderly end of the interpreter would wait for the thread that reads.
    os._exit(0)
