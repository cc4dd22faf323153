"""A policy that does as it is told, behind the real servicer and the real scaffold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc.aio

from vigorl_lib.domain.geometry import ResizeRule
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import ImageSpan, Message, Origin, Role, Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import (
    Completion,
    FinishReason,
    Generation,
    PolicyInfo,
    Sampling,
    Scored,
    StreamEvent,
    stream_whole,
)
from vigorl_lib.policy.client import PolicyClient
from vigorl_lib.rpc.config import ServerConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import (
    add_PolicyAdminServiceServicer_to_server,
    add_PolicyServiceServicer_to_server,
)
from vigorl_lib.rpc.server import Service, running
from vigorl_lib.storage.served_images import open_image_cache
from vigorl_services.policy.server import PolicyAdminServer, PolicyServer

INFO = PolicyInfo("fake", "fake", "none", "r0", 1, True, True, False, 4096, ResizeRule(28, 784, 12544))


@dataclass
class FakePolicy:
    """Renders a segment as one token a character; samples the seed. `fail` is raised, `release` is waited for."""

    name: str = "fake"
    version: int = 1
    fail: Exception | None = None
    release: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    prompts: list[Sequence[Segment]] = field(default_factory=list)

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        self.prompts.append(prompt)
        self.entered.set()
        if self.fail is not None:
            raise self.fail
        if self.release is not None:
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if self.version < min_policy_version:
            raise PolicyError("these weights are too old", reason="POLICY_TOO_OLD", version=self.version)
        completions = tuple(
            Completion(str(seed), (seed,), (-0.5,), FinishReason.END_OF_TURN, self.version) for seed in seeds
        )
        return Generation(tuple(map(_rendered, prompt)), completions, await self.info())

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
        rendered = map(_rendered, prompt)
        scored = tuple(replace(segment, logprobs=(-1.0,) * len(segment.token_ids or ())) for segment in rendered)
        return Scored(scored, await self.info())

    async def info(self) -> PolicyInfo:
        return replace(INFO, name=self.name, version=self.version)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        self.version = version
        return await self.info()

    async def close(self) -> None:
        """Nothing is held."""


def _rendered(segment: Segment) -> Segment:
    if segment.token_ids is not None:
        return segment
    text = tuple(map(ord, segment.text))
    spans = tuple(ImageSpan(index, 1, image) for index, image in enumerate(segment.images))
    return segment.rendered((0,) * len(spans) + text, spans)


def prompt_of(*parts: str | Image) -> tuple[Segment, ...]:
    return (Segment(Origin.PROMPT, (Message(Role.USER, parts),)),)


@asynccontextmanager
async def served(
    policy: FakePolicy, config: ServerConfig | None = None, *, token: str | None = None, cache_bytes: int = 1 << 20
) -> AsyncIterator[str]:
    """The address of a server of this policy."""

    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        served = PolicyServer(policy, policy.name, open_image_cache("", cache_bytes=cache_bytes))
        admin = PolicyAdminServer(policy, policy.name)

        def register(server: grpc.aio.Server) -> None:
            # One listener for both is enough for a fake.
            add_PolicyServiceServicer_to_server(served, server)
            add_PolicyAdminServiceServicer_to_server(admin, server)

        yield Service("vigorl.policy.v1.PolicyService", register, policy.info)

    async with running(config or ServerConfig(drain_s=1.0), build, token=token) as address:
        yield address


async def ask(client: PolicyClient, *parts: str | Image, seeds: Sequence[int] = (7,), version: int = 0) -> Generation:
    return await client.generate(
        prompt_of(*(parts or ("hello",))), seeds=seeds, sampling=Sampling(), min_policy_version=version
    )
