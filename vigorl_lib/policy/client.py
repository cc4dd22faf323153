"""A policy behind gRPC: the Policy protocol over PolicyService.

A client means one policy by name and may know several targets that serve it: conversations stay
with one target as long as it serves (the same prefix finds its caches there), and a target whose weights are older
than asked for is passed over for the next. This module keeps no conversation and renders nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.policy.base import Generation, PolicyInfo, Sampling, Scored, StreamEvent
from vigorl_lib.policy.convert import (
    event_from_proto,
    generation_from_proto,
    info_from_proto,
    sampling_to_proto,
    scored_from_proto,
)
from vigorl_lib.rpc.channels import Client, Connection, Connections
from vigorl_lib.rpc.config import bearer_token
from vigorl_lib.rpc.convert import ImageToProto, image_inline, segment_to_proto
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import PolicyAdminServiceStub, PolicyServiceStub

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import PolicyServiceAsyncStub

T = TypeVar("T")


class PolicyClient(Client):
    """`targets` is one address or several, separated by commas; `name` may be empty for a server's only policy."""

    def __init__(
        self, targets: str, name: str = "", *, admin: str = "", connections: Connections | None = None
    ) -> None:
        super().__init__(targets, connections=connections)
        self.name = name
        self._admin = [
            Connection(target.strip(), token=bearer_token(admin=True)) for target in admin.split(",") if target.strip()
        ]

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        """See `Policy.generate`. Raises PolicyError (POLICY_TOO_OLD) when every target is."""

        async def ask(connection: Connection, image: ImageToProto) -> pb.GenerateResponse:
            request = pb.GenerateRequest(
                policy=self.name,
                prompt=[segment_to_proto(segment, image) for segment in prompt],
                seeds=seeds,
                sampling=sampling_to_proto(sampling),
                min_policy_version=min_policy_version,
                request_id=request_id,
            )
            return await connection.call(_stub(connection).Generate, request, timeout_s=connection.config.timeout_s)

        return generation_from_proto(prompt, await self._young_enough(prompt, ask))

    async def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        connection = self._connections[self._place(prompt)]

        def request(image: ImageToProto) -> pb.StreamGenerateRequest:
            return pb.StreamGenerateRequest(
                policy=self.name,
                prompt=[segment_to_proto(segment, image) for segment in prompt],
                seed=seed,
                sampling=sampling_to_proto(sampling),
                min_policy_version=min_policy_version,
                request_id=request_id,
            )

        async for response in connection.stream(_stub(connection).StreamGenerate, request(image_inline)):
            yield event_from_proto(prompt, response)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        async def ask(connection: Connection, image: ImageToProto) -> pb.ScoreResponse:
            request = pb.ScoreRequest(
                policy=self.name,
                segments=[segment_to_proto(segment, image) for segment in prompt],
                min_policy_version=min_policy_version,
                request_id=request_id,
            )
            return await connection.call(_stub(connection).Score, request, timeout_s=connection.config.timeout_s)

        return scored_from_proto(prompt, await self._young_enough(prompt, ask))

    async def info(self) -> PolicyInfo:
        """The policy as the first target describes it."""
        connection = self._connections[0]
        answer = await connection.call(_stub(connection).GetPolicy, pb.GetPolicyRequest(policy=self.name))
        return info_from_proto(answer.policy)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """Tell every target, one after the other, so that the others go on answering.

        Raises ConfigError (ADMIN_TARGET_MISSING) where none is known.
        """
        if not self._admin:
            raise ConfigError(
                f"nobody has said where policy {self.name!r} takes new weights; set services.policy_admin.{self.name}",
                reason="ADMIN_TARGET_MISSING",
            )
        request = pb.UpdateWeightsRequest(policy=self.name, version=version, uri=uri, run_id=run_id)
        for connection in self._admin:
            answer = await connection.call(
                connection.stub(PolicyAdminServiceStub).UpdateWeights, request, timeout_s=connection.config.timeout_s
            )
        return info_from_proto(answer.policy)

    async def _young_enough(
        self, prompt: Sequence[Segment], ask: Callable[[Connection, ImageToProto], Awaitable[T]]
    ) -> T:
        """The answer of the conversation's own target, or of the next that has the weights."""
        first = self._place(prompt) if len(self._connections) > 1 else 0
        order = self._connections[first:] + self._connections[:first]
        for connection in order[:-1]:
            try:
                return await _with_images(connection, ask)
            except PolicyError as error:
                if error.reason != "POLICY_TOO_OLD":
                    raise
        return await _with_images(order[-1], ask)

    def _place(self, prompt: Sequence[Segment]) -> int:
        """One conversation, one target: chosen by its first segment, which all its turns share."""
        opening = prompt[0].text + "".join(image.sha256 for image in prompt[0].images)
        return int.from_bytes(hashlib.sha256(opening.encode()).digest()[:4], "big") % len(self._connections)


async def _with_images(connection: Connection, ask: Callable[[Connection, ImageToProto], Awaitable[T]]) -> T:
    return await connection.sent_images.call(lambda image: ask(connection, image))


def _stub(connection: Connection) -> PolicyServiceAsyncStub:
    stub: PolicyServiceAsyncStub = connection.stub(PolicyServiceStub)
    return stub
