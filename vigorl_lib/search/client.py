"""A search service behind gRPC: solve a question, search an example, search a data set.

Each method yields what happens as it happens; the last thing that it yields is the result. Leaving the
loop early ends the work on the server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vigorl_lib.domain.example import Example
from vigorl_lib.domain.image import Image
from vigorl_lib.domain.trajectory import Trajectory, TurnRecord
from vigorl_lib.reward.config import RewardConfig
from vigorl_lib.reward.convert import config_to_proto
from vigorl_lib.rollout.task import TaskConfig
from vigorl_lib.rpc.channels import Client
from vigorl_lib.rpc.convert import (
    example_to_proto,
    image_inline,
    image_reference,
    record_from_proto,
    trajectory_from_proto,
)
from vigorl_lib.rpc.gen.vigorl.common.v1 import image_pb2
from vigorl_lib.rpc.gen.vigorl.search.v1 import search_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.search.v1.search_service_pb2_grpc import SearchServiceStub
from vigorl_lib.rpc.images import received_image
from vigorl_lib.search.config import SearchConfig
from vigorl_lib.search.convert import progress_from_proto, search_to_proto, task_to_proto, tree_from_proto
from vigorl_lib.search.coordinator import SearchProgress
from vigorl_lib.search.tree import Tree

if TYPE_CHECKING:
    # The typed face of the stub on an asyncio channel; it exists in the type stubs only.
    from vigorl_lib.rpc.gen.vigorl.search.v1.search_service_pb2_grpc import SearchServiceAsyncStub


@dataclass(frozen=True, slots=True)
class TreeProgress:
    """How far one tree is."""

    simulations: int
    rollouts: int
    solved: bool


class SearchClient(Client):
    async def solve(
        self, image: Image, question: str, *, policy: str, task: TaskConfig, seed: int = 0
    ) -> AsyncGenerator[TurnRecord | Trajectory]:
        """The turns of one conversation, then its trajectory. Images come with their bytes."""
        request = pb.SolveRequest(
            policy=policy, image=image_inline(image), question=question, task=task_to_proto(task), seed=seed
        )
        seen = {image.sha256: image}

        def known(proto: image_pb2.Image) -> Image:
            return seen.get(proto.digest.sha256) or image_reference(proto)

        async with aclosing(self._connections[0].stream(self._stub.Solve, request)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "turn":
                    record = record_from_proto(response.turn, received_image)
                    if record.crop_image is not None:
                        seen[record.crop_image.sha256] = record.crop_image
                    yield record
                else:
                    yield trajectory_from_proto(response.trajectory, known)

    async def search(
        self,
        example: Example,
        *,
        policy: str,
        task: TaskConfig,
        reward: RewardConfig,
        search: SearchConfig,
        seed: int = 0,
    ) -> AsyncGenerator[TreeProgress | Tree]:
        """Progress after each simulation, then the tree; its images are digests."""
        request = pb.SearchRequest(
            policy=policy,
            example=example_to_proto(example, image_inline),
            task=task_to_proto(task),
            reward=config_to_proto(reward),
            search=search_to_proto(search),
            seed=seed,
        )
        async with aclosing(self._connections[0].stream(self._stub.Search, request)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "progress":
                    progress = response.progress
                    yield TreeProgress(progress.simulations, progress.rollouts, progress.solved)
                else:
                    yield tree_from_proto(response.tree, image_reference)

    async def search_dataset(
        self,
        *,
        run_id: str,
        dataset: str,
        split: str,
        policy: str,
        task: TaskConfig,
        reward: RewardConfig,
        search: SearchConfig,
        seed: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> AsyncGenerator[SearchProgress]:
        """Progress of a shard, whose trees the server journals in its own storage under the run id."""
        request = pb.SearchDatasetRequest(
            run_id=run_id,
            dataset=dataset,
            split=split,
            shard_index=shard_index,
            shard_count=shard_count,
            policy=policy,
            task=task_to_proto(task),
            reward=config_to_proto(reward),
            search=search_to_proto(search),
            seed=seed,
        )
        async with aclosing(self._connections[0].stream(self._stub.SearchDataset, request)) as responses:
            async for response in responses:
                yield progress_from_proto(response)

    @property
    def _stub(self) -> SearchServiceAsyncStub:
        stub: SearchServiceAsyncStub = self._connections[0].stub(SearchServiceStub)
        return stub
