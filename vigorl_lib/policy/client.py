"""A policy behind gRPC: the Policy protocol over PolicyService.

A client means one policy by name, which several replicas may serve. Conversations stay with one replica as long as
it serves (the same prefix finds its caches there), and one that is full, gone or has older weights than asked for is
passed over for the next. This module keeps no conversation and renders nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.domain.wire import PREVIOUS_THOUGHT
from vigorl_lib.errors import ConfigError, VigorlError
from vigorl_lib.policy.base import Generation, PolicyInfo, Sampling, Scored, StreamEvent, WeightTransfer
from vigorl_lib.policy.convert import (
    event_from_proto,
    generation_from_proto,
    info_from_proto,
    sampling_to_proto,
    scored_from_proto,
    transfer_to_proto,
)
from vigorl_lib.rpc.channels import Connection, Connections
from vigorl_lib.rpc.convert import ImageToProto, segment_to_proto
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import PolicyAdminServiceStub, PolicyServiceStub
from vigorl_lib.rpc.replicas import Replicas, Resolve, resolve_host

if TYPE_CHECKING:
    # The typed face of the stubs on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import (
        PolicyAdminServiceAsyncStub,
        PolicyServiceAsyncStub,
    )

log = logging.getLogger(__name__)

_NOT_TAKEN = "%s did not take the weights: %s: %s"

Update = Callable[[Connection], Awaitable[PolicyInfo]]
"""Brings new weights to one replica."""
Tell = Callable[[WeightTransfer], Awaitable[PolicyInfo]]
"""Tells one replica of the learner that waits for it; returns when it has the weights."""
Send = Callable[[str, Tell], Awaitable[PolicyInfo]]
"""Sends new weights to one replica, given its target and how it is told; see `vigorl_lib.training.transfer`."""


class PolicyClient:
    """`targets` is `host:port`, several with commas, or `dns:///name:port` of a headless service.

    `name` may be empty for a server's only policy. `admin` is where the same policy takes new weights, written in the
    same ways. Connections that are handed in stay open when the client closes. Calls raise what the server raised,
    after the replicas have been tried as `Replicas.call` says. Raises ConfigError (TARGET_INVALID).
    """

    def __init__(
        self,
        targets: str,
        name: str = "",
        *,
        admin: str = "",
        connections: Connections | None = None,
        resolve: Resolve = resolve_host,
    ) -> None:
        self.name = name
        self._pool = Connections() if connections is None else connections
        self._owns_pool = connections is None
        self._replicas = Replicas(targets, self._pool, resolve=resolve)
        self._admin_pool = self._pool.admin()
        self._admin = Replicas(admin, self._admin_pool, resolve=resolve) if admin else None
        self._late: dict[str, asyncio.Task[None] | None] = {}
        """Replicas that did not take the last weights, and what tells them again."""

    async def generate(
        self,
        prompt: Sequence[Segment],
        *,
        seeds: Sequence[int],
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> Generation:
        """See `Policy.generate`. Raises PolicyError (POLICY_TOO_OLD) when every replica is."""

        async def ask(connection: Connection, timeout_s: float) -> pb.GenerateResponse:
            async def send(image: ImageToProto) -> pb.GenerateResponse:
                request = pb.GenerateRequest(
                    policy=self.name,
                    prompt=[segment_to_proto(segment, image) for segment in prompt],
                    seeds=seeds,
                    sampling=sampling_to_proto(sampling),
                    min_policy_version=min_policy_version,
                    request_id=request_id,
                )
                return await connection.call(_stub(connection).Generate, request, timeout_s=timeout_s)

            return await connection.sent_images.call(send)

        return generation_from_proto(prompt, await self._replicas.call(_opening(prompt), ask))

    async def stream(
        self,
        prompt: Sequence[Segment],
        *,
        seed: int,
        sampling: Sampling,
        min_policy_version: int = 0,
        request_id: str = "",
    ) -> AsyncGenerator[StreamEvent]:
        """See `Policy.stream`. Another replica is tried up to the first event and never after it."""

        async def begin(
            connection: Connection, timeout_s: float
        ) -> tuple[pb.StreamGenerateResponse, AsyncGenerator[pb.StreamGenerateResponse]]:
            async def send(
                image: ImageToProto,
            ) -> tuple[pb.StreamGenerateResponse, AsyncGenerator[pb.StreamGenerateResponse]]:
                request = pb.StreamGenerateRequest(
                    policy=self.name,
                    prompt=[segment_to_proto(segment, image) for segment in prompt],
                    seed=seed,
                    sampling=sampling_to_proto(sampling),
                    min_policy_version=min_policy_version,
                    request_id=request_id,
                )
                responses = connection.stream(_stub(connection).StreamGenerate, request, timeout_s=timeout_s)
                return await anext(responses, pb.StreamGenerateResponse()), responses

            return await connection.sent_images.call(send)

        first, responses = await self._replicas.call(_opening(prompt), begin)
        async with aclosing(responses):
            yield event_from_proto(prompt, first)
            async for response in responses:
                yield event_from_proto(prompt, response)

    async def score(self, prompt: Sequence[Segment], *, min_policy_version: int = 0, request_id: str = "") -> Scored:
        async def ask(connection: Connection, timeout_s: float) -> pb.ScoreResponse:
            async def send(image: ImageToProto) -> pb.ScoreResponse:
                request = pb.ScoreRequest(
                    policy=self.name,
                    segments=[segment_to_proto(segment, image) for segment in prompt],
                    min_policy_version=min_policy_version,
                    request_id=request_id,
                )
                return await connection.call(_stub(connection).Score, request, timeout_s=timeout_s)

            return await connection.sent_images.call(send)

        return scored_from_proto(prompt, await self._replicas.call(_opening(prompt), ask))

    async def info(self) -> PolicyInfo:
        """The policy as one of the replicas describes it."""

        async def ask(connection: Connection, timeout_s: float) -> pb.GetPolicyResponse:
            request = pb.GetPolicyRequest(policy=self.name)
            return await connection.call(_stub(connection).GetPolicy, request, timeout_s=timeout_s)

        answer = await self._replicas.call("", ask, timeout_s=self._pool.config.quick_timeout_s)
        return info_from_proto(answer.policy)

    async def update_weights(self, *, version: int, uri: str, run_id: str) -> PolicyInfo:
        """Tell every replica, one after the other, so that the others go on answering.

        A replica that is gone, late or broken is named in the log and left alone, as long as another one took the
        weights: calls that ask for the version pass it over. The next time it is told as well, and not waited for.
        Raises ConfigError (ADMIN_TARGET_MISSING) where none is known; the first failure, once all have been told, where
        none took the weights or one refused them for good.
        """
        request = pb.UpdateWeightsRequest(policy=self.name, version=version, uri=uri, run_id=run_id)
        return await self._update_everyone(lambda connection: _update(connection, request), beside=True)

    async def transfer_weights(self, *, version: int, run_id: str, send: Send) -> PolicyInfo:
        """Send every replica new weights without storage between, one after the other.

        Raises as `update_weights`.
        """

        async def update(connection: Connection) -> PolicyInfo:
            async def tell(transfer: WeightTransfer) -> PolicyInfo:
                request = pb.UpdateWeightsRequest(
                    policy=self.name, version=version, transfer=transfer_to_proto(transfer), run_id=run_id
                )
                return await _update(connection, request)

            return await send(connection.target, tell)

        # A learner sends what it holds, which changes: it must not send beside its next step.
        return await self._update_everyone(update, beside=False)

    async def _update_everyone(self, update: Update, *, beside: bool) -> PolicyInfo:
        """`beside` permits to tell replicas that failed the last time without waiting for them."""
        if self._admin is None:
            raise ConfigError(
                f"nobody has said where policy {self.name!r} takes new weights; set services.policy_admin.{self.name}",
                reason="ADMIN_TARGET_MISSING",
            )
        answers: list[PolicyInfo] = []
        failures: dict[str, VigorlError] = {}
        for connection in sorted(await self._admin.everyone(), key=lambda connection: connection.target in self._late):
            if beside and answers and connection.target in self._late:
                self._tell_beside(connection, update)
                continue
            try:
                answers.append(await update(connection))
                self._late.pop(connection.target, None)
            except VigorlError as error:
                failures[connection.target] = error
        if failures and not (answers and all(failure.infrastructure for failure in failures.values())):
            raise next(iter(failures.values()))
        for target, failure in failures.items():
            self._late.setdefault(target)
            log.warning(_NOT_TAKEN, target, failure.reason, failure.message)
        return answers[-1]

    def _tell_beside(self, connection: Connection, update: Update) -> None:
        async def tell() -> None:
            try:
                await update(connection)
                del self._late[connection.target]
            except VigorlError as error:
                log.warning(_NOT_TAKEN, connection.target, error.reason, error.message)

        before = self._late[connection.target]
        if before is None or before.done():
            self._late[connection.target] = asyncio.create_task(tell())

    async def close(self) -> None:
        telling = [task for task in self._late.values() if task is not None]
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
        await self._replicas.close()
        if self._admin is not None:
            await self._admin.close()
        await self._admin_pool.close()
        if self._owns_pool:
            await self._pool.close()


def _opening(prompt: Sequence[Segment]) -> str:
    """What all turns of a conversation, and all samples of a group, have in common: the first segment."""
    # A question that is asked again with thoughts numbered behind it is the same conversation.
    text = prompt[0].text.partition(PREVIOUS_THOUGHT)[0] if prompt else ""
    opening = "".join([text, *(image.sha256 for image in prompt[0].images)]) if prompt else ""
    return hashlib.sha256(opening.encode()).hexdigest()


async def _update(connection: Connection, request: pb.UpdateWeightsRequest) -> PolicyInfo:
    stub: PolicyAdminServiceAsyncStub = connection.stub(PolicyAdminServiceStub)
    answer = await connection.call(stub.UpdateWeights, request, timeout_s=connection.config.timeout_s)
    return info_from_proto(answer.policy)


def _stub(connection: Connection) -> PolicyServiceAsyncStub:
    stub: PolicyServiceAsyncStub = connection.stub(PolicyServiceStub)
    return stub
