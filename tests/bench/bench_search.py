"""Tree search against a policy of fixed latency: how busy it keeps the engine, what a simulation costs, memory.

A search of 8 simulations, 3 children and 2 rollouts, answers from the third turn on. Without zoom the policy says
thoughts with points (no picture is cut); with zoom every thought is a zoom, so a turn also costs a crop.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from multiprocessing.connection import Connection

from tests.bench.support import RESIZE, examples, served
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import Frame, Point
from vigorl_lib.domain.grammar import Answer, Continue, Zoom, render_turn
from vigorl_lib.domain.trajectory import Origin, Segment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.environment.zoom import ZoomEnvironment
from vigorl_lib.policy.base import Completion, FinishReason, Generation, Policy, PolicyInfo, Sampling
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rpc.loop import COLLECTOR, run_loop
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.coordinator import SearchProgress, search_dataset
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.pacing import PacedPolicy
from vigorl_lib.storage.base import open_storage

LATENCY_S = 0.05
SECONDS = 10.0
"""About how long each size keeps its slots busy."""
SAMPLES_PER_TREE = 54
ANSWER_AT = 3
"""The turn from which on the policy answers."""
SEARCH = SearchConfig(
    simulations=8, children=3, rollouts_per_child=2, max_depth=6, rollout_max_steps=4, dedup_radius_px=0
)
ZOOM = ZoomConfig(window_model_px=14, shown_px=112, max_turns=8, on_invalid="stop")
MEMORY_TREES = 10_000


class Talker:
    """Policy that says a thought or zooms somewhere, and answers on the third turn; costs next to nothing itself."""

    def __init__(self, *, zoom: bool) -> None:
        self._zoom = zoom
        self._info = PolicyInfo("talker", "written", "", "", 0, False, False, False, 4096, RESIZE)

    async def generate(
        self, prompt: Sequence[Segment], *, seeds: Sequence[int], sampling: Sampling, **_: object
    ) -> Generation:
        return self.say(prompt, seeds)

    async def info(self) -> PolicyInfo:
        return self._info

    async def close(self) -> None:
        pass

    def say(self, prompt: Sequence[Segment], seeds: Sequence[int], queue_seconds: float = 0.0) -> Generation:
        depth = sum(segment.origin is Origin.POLICY for segment in prompt) + 1
        completions = tuple(
            _answer(bool(seed % 3)) if depth >= ANSWER_AT else _thought(seed % 100, seed // 100 % 100, self._zoom)
            for seed in seeds
        )
        return Generation(tuple(prompt), completions, self._info, 0, queue_seconds, LATENCY_S)


# What the policy itself costs is not what is measured.
@lru_cache
def _answer(right: bool) -> Completion:
    return _said(render_turn("That is it.", Answer("pink" if right else "cyan")))


@cache
def _thought(x: int, y: int, zoom: bool) -> Completion:
    return _said(render_turn(f"Here ({x}, {y}).", Zoom(Point(x, y, Frame.MODEL)) if zoom else Continue()))


def _said(text: str) -> Completion:
    return Completion(text, (), (), FinishReason.STOP_STRING, 0)


class SlotEngine(Talker):
    """A talker behind an engine of so many slots, each working on one sample for `LATENCY_S`, first come, first served.

    When a slot is free is reckoned, not waited for: an engine of its own goes on to its next request, however late
    this process hears of the last one.
    """

    def __init__(self, slots: int, *, zoom: bool) -> None:
        super().__init__(zoom=zoom)
        self.slots = slots
        self.starts: list[float] = []
        self._free = [0.0] * slots

    async def generate(
        self, prompt: Sequence[Segment], *, seeds: Sequence[int], sampling: Sampling, **_: object
    ) -> Generation:
        asked = time.monotonic()
        starts = [self._take(asked) for _ in seeds]
        await asyncio.sleep(max(starts) + LATENCY_S - time.monotonic())
        return self.say(prompt, seeds, max(starts) - asked)

    def utilisation(self) -> float:
        """Share of slot time at work, ramps left out."""
        begin, end = min(self.starts), max(self.starts) + LATENCY_S
        low, high = begin + 0.1 * (end - begin), begin + 0.9 * (end - begin)
        worked = sum(max(0.0, min(start + LATENCY_S, high) - max(start, low)) for start in self.starts)
        return worked / (self.slots * (high - low))

    def _take(self, asked: float) -> float:
        start = max(asked, heapq.heappop(self._free))
        heapq.heappush(self._free, start + LATENCY_S)
        self.starts.append(start)
        return start


def task(*, zoom: bool) -> TaskConfig:
    prompt = {"mode": "multi_turn"} if zoom else {"mode": "thought_steps", "prompt": "single_turn"}
    return TaskConfig(family="synthetic_search", zoom=ZOOM, **prompt)


@dataclass(frozen=True)
class Spent:
    """What a data set of trees took."""

    seconds: float
    cpu_s: float


def run() -> dict[str, float]:
    # As the search service does.
    gc.set_threshold(*COLLECTOR)
    scenes = examples(64)
    figures: dict[str, float] = {}
    for slots in (10, 64, 256):
        figures |= _sized(scenes, slots)
    figures |= _through_grpc(scenes)
    figures |= _with_zoom(scenes)
    figures |= _alone(scenes)
    return figures | _memory(scenes)


def _sized(scenes: list[Example], slots: int) -> dict[str, float]:
    """A quarter as many trees in flight as slots, each with enough simulations in flight."""
    policy = SlotEngine(slots, zoom=False)
    trees = _trees_for(slots)
    spent = run_loop(_search(policy, scenes, trees, in_flight=max(4, slots // 4)))
    simulations = trees * SEARCH.simulations
    return {
        f"utilisation_{slots}": policy.utilisation(),
        f"simulations_per_s_{slots}": simulations / spent.seconds,
        f"cpu_ms_per_simulation_{slots}": 1e3 * spent.cpu_s / simulations,
        f"cpu_ms_per_turn_{slots}": 1e3 * spent.cpu_s / len(policy.starts),
    }


def _through_grpc(scenes: list[Example]) -> dict[str, float]:
    """The policy's server is a process of its own, as it always is."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, 64))
    server.start()
    address = here.recv()

    async def work() -> Spent:
        client = PolicyClient(address, "talker")
        spent = await _search(client, scenes, _trees_for(64), in_flight=64)
        await client.close()
        return spent

    spent = run_loop(work())
    here.send("done")
    utilisation, turns = here.recv()
    server.join()
    return {"utilisation_grpc_64": utilisation, "cpu_ms_per_turn_grpc": 1e3 * spent.cpu_s / turns}


def _serve(pipe: Connection, slots: int) -> None:
    """Serve an engine until told to stop, then tell how busy it was and how many turns it said."""
    engine = SlotEngine(slots, zoom=False)

    async def work() -> None:
        async with served(engine, "talker") as address:  # type: ignore[arg-type]
            pipe.send(address)
            await asyncio.to_thread(pipe.recv)

    run_loop(work())
    pipe.send((engine.utilisation(), len(engine.starts)))


def _with_zoom(scenes: list[Example]) -> dict[str, float]:
    policy = SlotEngine(10, zoom=True)
    spent = run_loop(_search(policy, scenes, _trees_for(10), in_flight=10, zoom=True))
    return {"utilisation_zoom_10": policy.utilisation(), "cpu_ms_per_turn_zoom": 1e3 * spent.cpu_s / len(policy.starts)}


def _alone(scenes: list[Example]) -> dict[str, float]:
    """One tree, one simulation in flight, as many slots as it wants; in rounds of the policy's latency."""
    alone = SEARCH.model_copy(update={"simulations_in_flight": 1})
    spent = run_loop(_search(SlotEngine(256, zoom=False), scenes, 3, in_flight=1, config=alone))
    together = run_loop(_search(SlotEngine(256, zoom=False), scenes, 3, in_flight=1))
    return {
        "rounds_per_tree": spent.seconds / LATENCY_S / 3,
        "rounds_per_tree_4_in_flight": together.seconds / LATENCY_S / 3,
    }


def _memory(scenes: list[Example]) -> dict[str, float]:
    """Resident memory after a tenth of the trees and after all of them, against a policy that answers at once."""
    resident: dict[int, float] = {}

    def watch(progress: SearchProgress) -> None:
        if progress.done in (MEMORY_TREES // 10, MEMORY_TREES):
            gc.collect()
            resident[progress.done] = _resident_mib()

    small = SEARCH.model_copy(update={"simulations": 2, "children": 2, "rollouts_per_child": 1})
    spent = run_loop(
        _search(Talker(zoom=False), scenes, MEMORY_TREES, in_flight=64, config=small, on_progress=watch)  # type: ignore[arg-type]
    )
    return {
        "resident_mib_after_1000_trees": resident[MEMORY_TREES // 10],
        "resident_mib_after_10000_trees": resident[MEMORY_TREES],
        "largest_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "trees_per_s_at_no_latency": MEMORY_TREES / spent.seconds,
    }


def _trees_for(slots: int) -> int:
    return max(2 * max(4, slots // 4), round(SECONDS / LATENCY_S * slots / SAMPLES_PER_TREE))


async def _search(
    policy: Policy,
    scenes: list[Example],
    trees: int,
    *,
    in_flight: int,
    zoom: bool = False,
    config: SearchConfig | None = None,
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
) -> Spent:
    config = config or SEARCH.model_copy(update={"simulations_in_flight": 4})
    config = config.model_copy(update={"trees_in_flight": in_flight})
    environment = ZoomEnvironment()
    stepper = Stepper(PacedPolicy(policy), environment, task(zoom=zoom))
    search = TreeSearch(stepper, LocalReward(), config, RewardConfig(), seed=0)
    # The same scene may be searched twice; its journal entry may not.
    wanted = [replace(scenes[k % len(scenes)], example_id=f"tree-{k}") for k in range(trees)]
    with tempfile.TemporaryDirectory() as folder:
        begin, cpu = time.monotonic(), time.process_time()
        await search_dataset(
            wanted,
            search,
            policy="bench",
            storage=open_storage(folder),
            prefix="runs/bench/search/0",
            on_progress=on_progress,
        )
        spent = Spent(time.monotonic() - begin, time.process_time() - cpu)
    await environment.close()
    return spent


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
