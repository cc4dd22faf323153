"""What the embedded engine is asked to do, and what it answers: plain data, and no torch.

`Worker` is who does it: `vigorl_lib.policy.worker` in a thread of this process, `vigorl_lib.policy.worker_process` in
a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from vigorl_lib.models.chat import ChatRenderer
from vigorl_lib.models.families import Family
from vigorl_lib.models.inputs import TokenSequence
from vigorl_lib.models.pixels import View
from vigorl_lib.policy.base import Completion, Sampling


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What whoever prepares requests has to know of a loaded model; `trained_context` in tokens."""

    renderer: ChatRenderer
    family: Family
    vocabulary: int
    trained_context: int


@dataclass(frozen=True, slots=True)
class Generate:
    """A prompt, one seed per sample, and the views of its images by digest; a streamed one has a single sample."""

    sequence: TokenSequence
    seeds: tuple[int, ...]
    sampling: Sampling
    views: dict[str, View]
    streamed: bool = False

    @property
    def rows(self) -> int:
        return len(self.seeds)


@dataclass(frozen=True, slots=True)
class Generated:
    """Completions in the order of the seeds, and when it happened, in seconds of `time.monotonic`."""

    completions: tuple[Completion, ...]
    started: float
    first_token: float
    finished: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A streamed order has begun, on this version of the weights."""

    version: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token of a streamed order, which goes on after it: the last one comes with the answer."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Score:
    sequence: TokenSequence
    views: dict[str, View]

    @property
    def rows(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class ScoredTokens:
    """One log-probability per token, and the version of the weights that gave them."""

    logprobs: list[float]
    version: int


@dataclass(frozen=True, slots=True)
class LoadWeights:
    """Weights from a committed folder in storage, under their version."""

    version: int
    uri: str


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """The version that is loaded afterwards, and the seconds it took from when the tensors were at hand."""

    version: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Whether the engine is there: answered at once, for a single step of a large model may take minutes."""


@dataclass(frozen=True, slots=True)
class Alive:
    """`updating` while new weights wait for what is in flight, and what comes waits for them."""

    updating: bool


Order = Generate | Score | LoadWeights | Ask
Answer = Generated | ScoredTokens | LoadedWeights | Alive
News = Joined | Drawn


@dataclass(slots=True, eq=False)
class Work:
    """An order, and where its answer goes. Whoever cancels the future gets the order dropped at the next token.

    `hear` gets the news of a streamed order, on a thread of the worker, all of them before the answer.
    """

    order: Order
    future: Future[Any] = field(default_factory=Future)
    hear: Callable[[News], None] = lambda _: None

    def resolve(self, answer: Answer) -> None:
        """Answer a caller, who may have left."""
        with suppress(InvalidStateError):
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Tell a caller of an error, who may have left."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


class Worker(Protocol):
    """Runs one loaded model, from construction until `stop`. Safe to use from several threads."""

    @property
    def checkpoint(self) -> Checkpoint: ...

    @property
    def version(self) -> int:
        """Version of the weights that the next batch will run on."""
        ...

    def submit(self, work: Work) -> None:
        """Queue some work.

        Its future, or this call, raises PolicyError (OVERLOADED, ENGINE_CLOSED, ENGINE_FAILED) and, for weights, what
        `fetch_weights` and `assign_weights` raise.
        """
        ...

    def stop(self) -> None:
        """Finish the batch in flight, refuse what waits, end. Blocks."""
        ...
