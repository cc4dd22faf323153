"""From a prefix to its end, and many of them at once.

`run_to_end` is the loop over `Stepper.step` that inference, GRPO, evaluation and the rollouts inside
the tree search share. `rollout_many` keeps a bounded number of them in flight on one event loop; no
conversation ever waits for another one's turn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.trajectory import Prefix, StopReason, Trajectory
from vigorl_lib.rollout.step import StepError, Stepper, first_image

T = TypeVar("T")


async def run_to_end(
    stepper: Stepper,
    prefix: Prefix,
    *,
    trajectory_id: str,
    example_id: str,
    max_steps: int | None = None,
    on_turn: Callable[[Prefix], None] | None = None,
) -> Trajectory:
    """Extend a prefix until it stops, for `max_steps` turns at most (then `max_turns`).

    A failure at the policy or the environment ends the trajectory with that stop reason and its
    reason string; it is recorded here, once. Cancellation is not an end: it propagates.
    """
    begin = time.monotonic()
    stop, error, steps = prefix.stop, "", 0
    while stop is None:
        if max_steps is not None and steps >= max_steps:
            stop = StopReason.MAX_TURNS
            break
        try:
            (prefix,) = await stepper.step(prefix, 1, last=steps + 1 == max_steps)
        except StepError as failure:
            stop, error = failure.stop, f"{failure.reason}: {failure.message}"
            break
        steps += 1
        stop = prefix.stop
        if on_turn is not None:
            on_turn(prefix)
    return await to_trajectory(
        stepper, prefix, stop, trajectory_id=trajectory_id, example_id=example_id, error=error, begin=begin
    )


async def solve(
    stepper: Stepper,
    example: Example,
    *,
    trajectory_id: str,
    seed_path: tuple[int | str, ...],
    on_turn: Callable[[Prefix], None] | None = None,
) -> Trajectory:
    """Open an episode on an example and run it to its end."""
    prefix = await stepper.start(example, seed_path)
    return await run_to_end(
        stepper, prefix, trajectory_id=trajectory_id, example_id=example.example_id, on_turn=on_turn
    )


async def to_trajectory(
    stepper: Stepper,
    prefix: Prefix,
    stop: StopReason,
    *,
    trajectory_id: str,
    example_id: str,
    error: str = "",
    begin: float | None = None,
) -> Trajectory:
    """A finished prefix with its record."""
    info = await stepper.info()
    return Trajectory(
        trajectory_id=trajectory_id,
        example_id=example_id,
        mode=stepper.task.mode,
        policy=info.name,
        segments=prefix.segments,
        turns=prefix.turns,
        stop=stop,
        error=error,
        seconds=0.0 if begin is None else time.monotonic() - begin,
        model_size=info.resize.model_size(first_image(prefix).size),
    )


async def rollout_many(jobs: Iterable[Callable[[], Awaitable[T]]], *, max_in_flight: int) -> AsyncGenerator[T, None]:
    """Results of the jobs as they finish, `max_in_flight` of them running at a time.

    A job that raises ends the whole: jobs record their own expected failures. Closing the iterator
    cancels what is in flight.
    """
    waiting = iter(jobs)
    running: set[asyncio.Task[T]] = set()
    try:
        while True:
            while len(running) < max_in_flight and (job := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(_await(job)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _await(job: Callable[[], Awaitable[T]]) -> T:
    return await job()
