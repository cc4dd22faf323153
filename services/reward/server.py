"""RewardService over a Reward: convert, call, convert."""

from __future__ import annotations

from typing import Any

from vigorl_lib.reward.base import Reward
from vigorl_lib.reward.client import MAX_ITEMS
from vigorl_lib.reward.convert import config_from_proto, result_to_proto
from vigorl_lib.rpc.convert import example_from_proto, image_reference, invalid, trajectory_from_proto
from vigorl_lib.rpc.gen.vigorl.reward.v1 import reward_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.reward.v1.reward_service_pb2_grpc import RewardServiceServicer


class RewardServer(RewardServiceServicer):
    def __init__(self, reward: Reward) -> None:
        self._reward = reward

    async def ScoreTrajectories(
        self, request: pb.ScoreTrajectoriesRequest, context: Any
    ) -> pb.ScoreTrajectoriesResponse:
        if not 1 <= len(request.items) <= MAX_ITEMS:
            raise invalid("items", f"1 to {MAX_ITEMS}", len(request.items))
        items = [
            (example_from_proto(item.example, image_reference), trajectory_from_proto(item.trajectory, image_reference))
            for item in request.items
        ]
        results = await self._reward.score(items, config=config_from_proto(request.config))
        return pb.ScoreTrajectoriesResponse(results=[result_to_proto(result) for result in results])
