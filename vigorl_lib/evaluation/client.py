"""An evaluation service behind gRPC. Leaving the loop early ends the work on the server; records are kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from vigorl_lib.evaluation.convert import Metric, metrics_from_proto, progress_from_proto
from vigorl_lib.evaluation.run import EvaluationProgress
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.convert import config_to_proto
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rpc.channels import Client
from vigorl_lib.rpc.gen.vigorl.evaluation.v1 import evaluation_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from vigorl_lib.search.convert import task_to_proto

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub


class EvaluationClient(Client):
    async def evaluate(
        self,
        *,
        run_id: str,
        dataset: str,
        split: str,
        policy: str,
        task: TaskConfig,
        reward: RewardConfig,
        seed: int = 0,
        limit: int = 0,
        keep_trajectories: int = 0,
        samples: int = 1,
        cache_answers: bool = False,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> AsyncGenerator[EvaluationProgress | tuple[Metric, ...]]:
        """The samples of a shard as they are made, then its figures; the server keeps the records in its own storage.

        Raises what `vigorl_lib.evaluation.run.evaluate` raises.
        """
        request = pb.EvaluateRequest(
            run_id=run_id,
            dataset=dataset,
            split=split,
            limit=limit,
            shard_index=shard_index,
            shard_count=shard_count,
            policy=policy,
            task=task_to_proto(task),
            reward=config_to_proto(reward),
            seed=seed,
            keep_trajectories=keep_trajectories,
            samples=samples,
            cache_answers=cache_answers,
        )
        async with aclosing(self._connections[0].stream(self._stub.Evaluate, request)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "metrics":
                    yield metrics_from_proto(response.metrics)
                else:
                    yield progress_from_proto(response)

    @property
    def _stub(self) -> EvaluationServiceAsyncStub:
        stub: EvaluationServiceAsyncStub = self._connections[0].stub(EvaluationServiceStub)
        return stub
