"""EvaluationService over `vigorl_lib.evaluation.run`: convert, call, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example
from vigorl_lib.evaluation.convert import metrics_to_proto, progress_to_proto
from vigorl_lib.evaluation.run import EvaluationProgress, evaluate
from vigorl_lib.policy.cached import CachedPolicy
from vigorl_lib.reward.convert import config_from_proto
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.wiring import ServicesConfig, connect
from vigorl_lib.rpc.convert import invalid
from vigorl_lib.rpc.gen.vigorl.evaluation.v1 import evaluation_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceServicer
from vigorl_lib.rpc.streams import events_of
from vigorl_lib.search.convert import task_from_proto
from vigorl_lib.search.pacing import PacedPolicy
from vigorl_lib.search.shards import Shard
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout


class EvaluationServer(EvaluationServiceServicer):
    def __init__(self, services: ServicesConfig, storage: Storage, samples_in_flight: int) -> None:
        self._services = services
        self._storage = storage
        self._samples_in_flight = samples_in_flight

    async def Evaluate(self, request: pb.EvaluateRequest, context: Any) -> AsyncIterator[pb.EvaluateResponse]:
        shards = max(1, request.shard_count)
        if request.shard_index >= shards:
            raise invalid("shard_index", f"less than shard_count ({shards})", request.shard_index)
        shard = Shard(request.shard_index, shards)
        task = task_from_proto(request.task)
        reward = config_from_proto(request.reward)
        prefix = RunLayout(self._storage, request.run_id).evaluation(request.policy, task.prompt_name)

        def read_examples() -> list[Example]:
            """The evaluation loads an image when its sample begins."""
            store = ImageStore(self._storage)
            limit = request.limit or None
            return read_dataset(self._storage, store, request.dataset, request.split, limit, with_images=False)

        async def work(emit: Callable[[pb.EvaluateResponse], None]) -> pb.EvaluateResponse:
            resumed = 0

            def on_sample(progress: EvaluationProgress) -> None:
                nonlocal resumed
                resumed = progress.resumed
                emit(progress_to_proto(progress))

            examples = await asyncio.to_thread(read_examples)
            async with connect(self._services, request.policy) as wired:
                paced = PacedPolicy(wired.policy)
                policy = CachedPolicy(paced, self._storage) if request.cache_answers else paced
                records = await evaluate(
                    examples,
                    Stepper(policy, wired.environment, task, load_image=ImageStore(self._storage).get),
                    wired.reward,
                    reward,
                    storage=self._storage,
                    prefix=prefix,
                    seed=request.seed,
                    max_in_flight=self._samples_in_flight,
                    keep_trajectories=request.keep_trajectories,
                    samples=max(1, request.samples),
                    dataset=f"{request.dataset}/{request.split}",
                    shard=shard,
                    on_sample=on_sample,
                )
            return pb.EvaluateResponse(
                done=len(records), total=len(records), resumed=resumed, metrics=metrics_to_proto(records)
            )

        async with aclosing(events_of(work)) as responses:
            async for response in responses:
                yield response
