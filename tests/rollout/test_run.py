from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial

import pytest

from tests.rollout.support import TASK, ZOOM, WordPolicy, answer, question, said, stepping, zoom
from vigorl_lib.domain.geometry import Size
from vigorl_lib.domain.trajectory import Origin, Prefix, Segment, StopReason, Trajectory
from vigorl_lib.domain.wire import FORCED_ANSWER_PREFIX
from vigorl_lib.errors import PolicyError
from vigorl_lib.rollout.run import rollout_many, run_to_end, solve
from vigorl_lib.rollout.step import StepError, Stepper


async def ran(stepper: Stepper, name: str = "one", **options: Callable[[Prefix], None]) -> Trajectory:
    return await solve(stepper, question(name), trajectory_id=f"r/{name}/0", seed_path=(0, name), **options)


def after(turns: int, last: str) -> Callable[[Sequence[Segment], int], str]:
    """Zooms for some turns, then says the last."""
    return lambda prompt, _: zoom(20 + 20 * len(said(prompt)), 30) if len(said(prompt)) < turns else last


async def test_a_conversation_runs_until_it_is_answered() -> None:
    seen: list[Prefix] = []
    trajectory = await ran(stepping(WordPolicy(after(2, answer()))), on_turn=seen.append)
    assert (trajectory.stop, trajectory.answer, trajectory.error) == (StopReason.ANSWERED, "pink", "")
    assert (trajectory.trajectory_id, trajectory.example_id) == ("r/one/0", "one")
    assert (trajectory.mode, trajectory.policy, trajectory.zooms) == ("multi_turn", "words", 2)
    assert trajectory.model_size == Size(112, 112)
    assert [prefix.record for prefix in seen] == list(trajectory.turns)
    assert trajectory.seconds > 0
    origins = [segment.origin for segment in trajectory.segments]
    assert origins == [Origin.PROMPT, *[Origin.POLICY, Origin.OBSERVATION] * 2, Origin.POLICY]
    assert len(trajectory.token_ids) == len(trajectory.trained_mask), "every segment was rendered"


async def test_turns_and_invalid_turns_are_limited() -> None:
    endless = await ran(stepping(WordPolicy(after(99, ""))))
    assert (endless.stop, len(endless.turns), endless.answer) == (StopReason.MAX_TURNS, ZOOM.max_turns, None)
    task = TASK.model_copy(update={"zoom": ZOOM.model_copy(update={"max_invalid_turns": 1})})
    invalid = await ran(stepping(WordPolicy(after(0, "no turn")), task))
    assert (invalid.stop, len(invalid.turns)) == (StopReason.INVALID_TURNS, 2)


async def test_a_failure_is_recorded_once_with_its_reason() -> None:
    def failing(prompt: Sequence[Segment], index: int) -> str:
        if said(prompt):
            raise PolicyError("the engine broke", reason="ENGINE_FAILED")
        return zoom()

    policy = WordPolicy(failing)
    trajectory = await ran(stepping(policy))
    assert trajectory.stop is StopReason.POLICY_ERROR
    assert trajectory.error == "ENGINE_FAILED: the engine broke"
    assert len(trajectory.turns) == 1
    assert len(policy.calls) == 2, "nobody tries again in secret"


async def test_a_context_that_is_too_long_is_its_own_end() -> None:
    def overflow(prompt: Sequence[Segment], index: int) -> str:
        raise PolicyError("5000 of 4096 tokens", reason="CONTEXT_OVERFLOW")

    trajectory = await ran(stepping(WordPolicy(overflow)))
    assert (trajectory.stop, trajectory.stop.is_error) == (StopReason.CONTEXT_OVERFLOW, False)
    assert "5000 of 4096" in trajectory.error


async def test_an_episode_that_cannot_be_opened_is_an_error_of_the_caller() -> None:
    stepper = stepping(WordPolicy(after(0, answer())))
    missing = question()
    example = type(missing)("x", "q", (missing.images[0].without_data(),), missing.truth)
    with pytest.raises(StepError) as caught:
        await solve(stepper, example, trajectory_id="r/x/0", seed_path=(0,))
    assert (caught.value.stop, caught.value.reason) == (StopReason.ENVIRONMENT_ERROR, "IMAGE_NOT_CACHED")


async def test_a_caller_may_permit_fewer_turns_and_the_last_of_them_is_forced() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(20 + 20 * len(said(prompt)), 30)

    for force, stop in ((False, StopReason.MAX_TURNS), (True, StopReason.ANSWERED)):
        stepper = stepping(WordPolicy(write), TASK.model_copy(update={"force_answer": force}))
        root = await stepper.start(question(), (0,))
        trajectory = await run_to_end(stepper, root, trajectory_id="t", example_id="one", max_steps=2)
        assert (trajectory.stop, len(trajectory.turns)) == (stop, 2)
        assert trajectory.turns[-1].text.startswith(FORCED_ANSWER_PREFIX) == force
    none = await run_to_end(stepper, root, trajectory_id="t", example_id="one", max_steps=0)
    assert (none.stop, none.turns) == (StopReason.MAX_TURNS, ())


async def test_when_no_zoom_is_left_the_answer_is_forced_before_the_last_turn() -> None:
    def write(prompt: Sequence[Segment], index: int) -> str:
        return " pink </answer>" if prompt[-1].origin is Origin.FORCED else zoom(20 + 20 * len(said(prompt)), 30)

    zooms = TASK.zoom.model_copy(update={"max_zooms": 1, "max_turns": 5})
    stepper = stepping(WordPolicy(write), TASK.model_copy(update={"force_answer": True, "zoom": zooms}))
    trajectory = await solve(stepper, question(), trajectory_id="t", seed_path=(0,))
    assert (trajectory.stop, trajectory.zooms, len(trajectory.turns)) == (StopReason.ANSWERED, 1, 2)


async def test_a_finished_prefix_is_a_trajectory_as_it_is() -> None:
    policy = WordPolicy(after(0, answer()))
    stepper = stepping(policy)
    (child,) = await stepper.step(await stepper.start(question(), (0,)), 1)
    trajectory = await run_to_end(stepper, child, trajectory_id="t", example_id="one")
    assert (trajectory.stop, len(policy.calls)) == (StopReason.ANSWERED, 1)


async def test_the_same_seeds_give_the_same_conversation() -> None:
    def by_seed(policy: WordPolicy) -> Callable[[Sequence[Segment], int], str]:
        return lambda prompt, _: zoom(policy.calls[-1].seeds[0] % 112, 30) if not said(prompt) else answer()

    runs = []
    for name in ("one", "one", "two"):
        policy = WordPolicy(after(0, ""))
        policy.write = by_seed(policy)
        runs.append(await ran(stepping(policy), name))
    assert runs[0].turns == runs[1].turns
    assert runs[0].turns != runs[2].turns


async def collect(jobs: list[Callable[[], Awaitable[str]]], max_in_flight: int) -> list[str]:
    return [result async for result in rollout_many(jobs, max_in_flight=max_in_flight)]


async def test_conversations_in_flight_are_bounded() -> None:
    policy = WordPolicy(after(1, answer()), delay=lambda _: 0.002)
    stepper = stepping(policy)
    jobs = (partial(ran, stepper, f"e{k}") for k in range(9))
    results = [trajectory async for trajectory in rollout_many(jobs, max_in_flight=3)]
    assert {trajectory.example_id for trajectory in results} == {f"e{k}" for k in range(9)}
    assert policy.busiest == 3
    assert await collect([], 3) == []


async def test_no_conversation_waits_for_anothers_turn() -> None:
    """The slow one's first turn lasts until all fast ones have taken all of their turns."""
    fast_ones_done = asyncio.Event()
    policy = WordPolicy(after(2, answer()))
    slow_stepper, fast_stepper = stepping(WordPolicy(after(0, answer()))), stepping(policy)

    async def slow() -> Trajectory:
        await fast_ones_done.wait()
        return await ran(slow_stepper, "slow")

    order = []
    jobs: list[Callable[[], Awaitable[Trajectory]]] = [slow]
    jobs += [partial(ran, fast_stepper, f"fast{k}") for k in range(5)]
    async with aclosing(rollout_many(jobs, max_in_flight=2)) as results:
        async for trajectory in results:
            order.append(trajectory.example_id)
            if len(order) == 5:
                fast_ones_done.set()
    assert order == [f"fast{k}" for k in range(5)] + ["slow"]
    assert len(policy.calls) == 15


async def test_jobs_are_taken_only_when_there_is_room() -> None:
    taken = 0

    async def job(name: int) -> int:
        return name

    def lazily() -> Iterator[Callable[[], Awaitable[int]]]:
        nonlocal taken
        for k in range(100):
            taken += 1
            yield partial(job, k)

    async with aclosing(rollout_many(lazily(), max_in_flight=2)) as results:
        await anext(results)
    assert taken == 2


async def test_closing_cancels_what_is_in_flight() -> None:
    events: list[str] = []

    async def quick() -> str:
        return "quick"

    async def endless() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        return "never"

    async with aclosing(rollout_many([quick, endless, endless], max_in_flight=3)) as results:
        assert await anext(results) == "quick"
    assert events == ["cancelled", "cancelled"]


async def test_a_job_that_raises_ends_the_whole_and_cancels_the_others() -> None:
    cancelled = asyncio.Event()

    async def broken() -> str:
        raise RuntimeError("a bug")

    async def endless() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    with pytest.raises(RuntimeError, match="a bug"):
        await collect([endless, broken], 2)
    assert cancelled.is_set()


async def test_cancelling_a_conversation_is_no_end_of_it() -> None:
    stepper = stepping(WordPolicy(after(0, answer()), delay=lambda _: 60.0))
    task = asyncio.ensure_future(ran(stepper))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
