"""A reward behind gRPC: the Reward protocol over RewardService.

Rules read turns, so segments stay at home; images travel by digest only, for the same reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vigorl_lib.domain.example import AnswerKind, Example
from vigorl_lib.domain.trajectory import Trajectory
from vigorl_lib.reward.base import Score
from vigorl_lib.reward.config import COMPOSED, REFERENCE, RewardConfig
from vigorl_lib.reward.convert import config_to_proto, result_from_proto
from vigorl_lib.rpc.channels import Connection, Connections
from vigorl_lib.rpc.convert import example_to_proto, image_by_digest, trajectory_to_proto
from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.reward.v1.reward_service_pb2_grpc import RewardServiceStub
from vigorl_lib.rpc.replicas import Replicas, Resolve, resolve_host

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.reward.v1.reward_service_pb2_grpc import RewardServiceAsyncStub

MAX_ITEMS = 256
"""Items in one call; scoring that many holds a server's event loop for a few hundredths of a second."""
MAX_ITEMS_ASKED = 64
"""Items in one call if each may be a question to a judge: four rounds of its time limit, within that of the call."""


class RewardClient:
    """`targets` is `host:port`, several with commas, or `dns:///name:port` of a headless service.

    Connections that are handed in stay open when the client closes. Raises ConfigError (TARGET_INVALID).
    """

    def __init__(
        self, targets: str, *, connections: Connections | None = None, resolve: Resolve = resolve_host
    ) -> None:
        self._pool = Connections() if connections is None else connections
        self._owns_pool = connections is None
        self._replicas = Replicas(targets, self._pool, resolve=resolve)

    async def score(
        self, items: Sequence[tuple[Example, Trajectory]], *, config: RewardConfig
    ) -> list[Score | Exception]:
        """See `Reward.score`; many items go in several calls, each with a deadline by what may have to be asked."""
        asks = may_ask(items, config)
        size = MAX_ITEMS_ASKED if asks else MAX_ITEMS
        timeout_s = self._pool.config.timeout_s if asks else self._pool.config.quick_timeout_s
        results: list[Score | Exception] = []
        for begin in range(0, len(items), size):
            some = items[begin : begin + size]
            request = pb.ScoreTrajectoriesRequest(
                items=[_item(example, trajectory) for example, trajectory in some], config=config_to_proto(config)
            )
            answer = await self._score(request, key=some[0][1].trajectory_id, timeout_s=timeout_s)
            results += [result_from_proto(result) for result in answer.results]
        return results

    async def close(self) -> None:
        await self._replicas.close()
        if self._owns_pool:
            await self._pool.close()

    async def _score(
        self, request: pb.ScoreTrajectoriesRequest, *, key: str, timeout_s: float
    ) -> pb.ScoreTrajectoriesResponse:
        async def ask(connection: Connection, timeout_s: float) -> pb.ScoreTrajectoriesResponse:
            stub: RewardServiceAsyncStub = connection.stub(RewardServiceStub)
            return await connection.call(stub.ScoreTrajectories, request, timeout_s=timeout_s)

        return await self._replicas.call(key, ask, timeout_s=timeout_s)


def may_ask(items: Sequence[tuple[Example, Trajectory]], config: RewardConfig) -> bool:
    """Whether scoring may take a model's time: a judge's about free answers, or whatever a user's own rule does."""
    if config.rule == COMPOSED:
        return any(example.truth.kind is AnswerKind.FREE for example, _ in items)
    return not config.rule.startswith(REFERENCE)


def _item(example: Example, trajectory: Trajectory) -> pb.ScoreItem:
    return pb.ScoreItem(
        example=example_to_proto(example, image_by_digest),
        trajectory=trajectory_to_proto(replace(trajectory, segments=()), image_by_digest),
    )
