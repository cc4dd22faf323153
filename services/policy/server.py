"""PolicyService and PolicyAdminService over a Policy: convert, call, convert."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

from vigorl_lib.domain.trajectory import Segment
from vigorl_lib.errors import PolicyError
from vigorl_lib.policy.base import Policy, PolicyInfo, TakesTransfers
from vigorl_lib.policy.convert import (
    MAX_SEEDS,
    event_to_proto,
    generation_to_proto,
    info_to_proto,
    sampling_from_proto,
    scored_to_proto,
    transfer_from_proto,
)
from vigorl_lib.rpc.context import request_id
from vigorl_lib.rpc.convert import invalid, segment_from_proto
from vigorl_lib.rpc.gen.vigorl.common.v1 import conversation_pb2
from vigorl_lib.rpc.gen.vigorl.policy.v1 import policy_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import (
    PolicyAdminServiceServicer,
    PolicyServiceServicer,
)
from vigorl_lib.rpc.images import ImageCache


def _check_name(asked: str, own: str) -> None:
    if asked not in ("", own):
        raise PolicyError(
            f"this server has the policy {own!r}, not {asked!r}; check the name or the address",
            reason="POLICY_UNKNOWN",
            policy=asked,
        )


class PolicyAdminServer(PolicyAdminServiceServicer):
    """Changes the one policy called `name`; for a listener of its own."""

    def __init__(self, policy: Policy, name: str) -> None:
        self._policy = policy
        self._name = name

    async def UpdateWeights(self, request: pb.UpdateWeightsRequest, context: Any) -> pb.UpdateWeightsResponse:
        _check_name(request.policy, self._name)
        info = await (self._receive(request) if request.HasField("transfer") else self._load(request))
        return pb.UpdateWeightsResponse(policy=info_to_proto(info))

    async def _load(self, request: pb.UpdateWeightsRequest) -> PolicyInfo:
        return await self._policy.update_weights(version=request.version, uri=request.uri, run_id=request.run_id)

    async def _receive(self, request: pb.UpdateWeightsRequest) -> PolicyInfo:
        if not isinstance(self._policy, TakesTransfers):
            raise PolicyError(
                f"policy {self._name} takes new weights from storage only; send the URI of a version",
                reason="NOT_SUPPORTED",
            )
        transfer = transfer_from_proto(request.transfer)
        return await self._policy.receive_weights(version=request.version, transfer=transfer, run_id=request.run_id)


class PolicyServer(PolicyServiceServicer):
    """Serves the one policy called `name`; an empty name in a request means it too."""

    def __init__(self, policy: Policy, name: str, images: ImageCache) -> None:
        self._policy = policy
        self._name = name
        self._images = images

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self._begin(request)
        if not 1 <= len(request.seeds) <= MAX_SEEDS:
            raise invalid("seeds", f"1 to {MAX_SEEDS}", len(request.seeds))
        prompt = await self._segments(request.prompt)
        generation = await self._policy.generate(
            prompt,
            seeds=list(request.seeds),
            sampling=sampling_from_proto(request.sampling),
            min_policy_version=request.min_policy_version,
            request_id=request_id.get(),
        )
        return generation_to_proto(prompt, generation)

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: Any
    ) -> AsyncGenerator[pb.StreamGenerateResponse]:
        self._begin(request)
        prompt = await self._segments(request.prompt)
        events = self._policy.stream(
            prompt,
            seed=request.seed,
            sampling=sampling_from_proto(request.sampling),
            min_policy_version=request.min_policy_version,
            request_id=request_id.get(),
        )
        async with aclosing(events):
            async for event in events:
                yield event_to_proto(prompt, event)

    async def Score(self, request: pb.ScoreRequest, context: Any) -> pb.ScoreResponse:
        self._begin(request)
        prompt = await self._segments(request.segments)
        scored = await self._policy.score(
            prompt,
            min_policy_version=request.min_policy_version,
            request_id=request_id.get(),
        )
        return scored_to_proto(prompt, scored)

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:
        _check_name(request.policy, self._name)
        return pb.GetPolicyResponse(policy=info_to_proto(await self._policy.info()))

    def _begin(self, request: pb.GenerateRequest | pb.StreamGenerateRequest | pb.ScoreRequest) -> None:
        _check_name(request.policy, self._name)
        if request.request_id:
            # The caller's own name for it, in every log line of the call from here on.
            request_id.set(request.request_id)

    async def _segments(self, protos: Iterable[conversation_pb2.Segment]) -> list[Segment]:
        segments = list(protos)
        if not segments:
            raise invalid("prompt", "at least one segment", "none")
        parts = [part for segment in segments for message in segment.messages for part in message.parts]
        images = iter(await self._images.resolve_all([part.image for part in parts if part.HasField("image")]))
        # A segment is read in the same order, so each image meets its own part.
        return [segment_from_proto(segment, lambda _: next(images)) for segment in segments]
