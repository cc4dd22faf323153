"""What several benchmarks need: synthetic examples, and a policy of a fixed latency and a fixed number of slots."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from vigorl_lib.data.datasets_synthetic import scene_example
from vigorl_lib.data.synthetic import make_scene
from vigorl_lib.domain.example import Example
from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.environment.config import ZoomConfig
from vigorl_lib.policy.base import Generation, PolicyInfo, Sampling, Scored, StreamEvent, stream_whole
from vigorl_lib.policy.config import PolicyConfig, ScriptedConfig
from vigorl_lib.policy.scripted import ScriptedTeacher
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rpc.config import ServerConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar, running
from vigorl_lib.storage.served_images import open_image_cache
from vigorl_services.policy.server import PolicyServer

RESIZE = ResizeRule(28, 784, 12544)
TASK = TaskConfig(
    family="synthetic_search", zoom=ZoomConfig(window_model_px=14, shown_px=112, max_turns=4, on_invalid="stop")
)


def examples(count: int) -> list[Example]:
    return [scene_example(make_scene(seed), f"scene-{seed}") for seed in range(count)]


def teacher(known: Sequence[Example], *, mode: str = "multi_turn") -> ScriptedTeacher:
    scripted = ScriptedConfig(root="unused", mode=mode)
    config = PolicyConfig(name="scripted-bench", engine="scripted", model="unused", scripted=scripted)
    return ScriptedTeacher(known, config, RESIZE)


@dataclass
class SlottedPolicy:
    """Plays the teacher; every sample holds one of `slots` for `latency_s(sample number)` seconds."""

    inner: ScriptedTeacher
    slots: int
    latency_s: Callable[[int], float]
    samples: int = 0
    busy: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.slots)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        # What the answer costs to make up is within its latency, as in an engine.
        made = asyncio.ensure_future(self.inner.generate(prompt, seeds=seeds, sampling=sampling))
        await asyncio.gather(*(self._hold() for _ in seeds))
        return await made

    async def _hold(self) -> None:
        number, self.samples = self.samples, self.samples + 1
        async with self._free:
            begin = time.monotonic()
            await asyncio.sleep(self.latency_s(number))
            self.busy.append((begin, time.monotonic()))

    def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        return stream_whole(self, prompt, seed=seed, sampling=sampling, min_policy_version=min_policy_version)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        return await self.inner.score(prompt)

    async def info(self) -> PolicyInfo:
        return await self.inner.info()

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        return await self.inner.update_weights(version=version, uri=uri, run_id=run_id)

    async def close(self) -> None:
        await self.inner.close()

    def utilisation(self) -> float:
        """Share of slot time in use between a tenth and nine tenths of the run, ramps left out."""
        begin, end = min(b for b, _ in self.busy), max(e for _, e in self.busy)
        low, high = begin + 0.1 * (end - begin), begin + 0.9 * (end - begin)
        used = sum(max(0.0, min(e, high) - max(b, low)) for b, e in self.busy)
        return used / (self.slots * (high - low))


@asynccontextmanager
async def served(policy: SlottedPolicy | ScriptedTeacher, name: str) -> AsyncIterator[str]:
    """The address of a server of this policy, on this event loop."""

    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        server = PolicyServer(policy, name, open_image_cache("", cache_bytes=64 << 20))
        register = registrar(add_PolicyServiceServicer_to_server, server)
        yield Service("vigorl.policy.v1.PolicyService", register, policy.info)

    async with running(ServerConfig(drain_s=1.0, max_concurrent_calls=4096), build) as address:
        yield address
