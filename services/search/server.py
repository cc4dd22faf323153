"""SearchService over rollouts and tree search: convert, call, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from typing import Any

from vigorl_lib.data.datasets import read_dataset
from vigorl_lib.domain.example import Example, GroundTruth
from vigorl_lib.domain.trajectory import Prefix
from vigorl_lib.reward.convert import config_from_proto
from vigorl_lib.rollout.run import solve
from vigorl_lib.rollout.step import Stepper
from vigorl_lib.rollout.wiring import ServicesConfig, Wired, connect
from vigorl_lib.rpc.context import request_id
from vigorl_lib.rpc.convert import (
    example_from_proto,
    image_by_digest,
    image_inline,
    invalid,
    record_to_proto,
    trajectory_to_proto,
)
from vigorl_lib.rpc.gen.vigorl.search.v1 import search_service_pb2 as pb
from vigorl_lib.rpc.gen.vigorl.search.v1.search_service_pb2_grpc import SearchServiceServicer
from vigorl_lib.rpc.gen.vigorl.search.v1.task_pb2 import TaskSettings
from vigorl_lib.rpc.images import ImageCache
from vigorl_lib.rpc.streams import events_of
from vigorl_lib.search.archive import end_shard, refuse_imported
from vigorl_lib.search.convert import (
    progress_to_proto,
    search_from_proto,
    task_from_proto,
    tree_to_proto,
)
from vigorl_lib.search.coordinator import SearchProgress, search_dataset
from vigorl_lib.search.journal import Entry
from vigorl_lib.search.mcts import TreeSearch
from vigorl_lib.search.pacing import PacedPolicy
from vigorl_lib.search.run_claims import claim_run, other_journals, search_settings
from vigorl_lib.search.shards import Shard
from vigorl_lib.search.tree import Tree
from vigorl_lib.storage.base import Storage
from vigorl_lib.storage.images import ImageStore
from vigorl_lib.storage.layout import RunLayout

MAX_QUESTION_CHARACTERS = 16 << 10


class SearchServer(SearchServiceServicer):
    """Connects to each policy at its first use and keeps the connection until `close`."""

    def __init__(self, services: ServicesConfig, storage: Storage, images: ImageCache) -> None:
        self._services = services
        self._storage = storage
        self._images = images
        self._wired: dict[str, Wired] = {}
        self._open = AsyncExitStack()

    async def Solve(self, request: pb.SolveRequest, context: Any) -> AsyncIterator[pb.SolveResponse]:
        if not 1 <= len(request.question) <= MAX_QUESTION_CHARACTERS:
            raise invalid("question", f"1 to {MAX_QUESTION_CHARACTERS} characters", len(request.question))
        (image,) = await self._images.resolve_all([request.image])
        wired = await self._connected(request.policy)
        stepper = self._stepper(wired, request.task)
        example = Example(request_id.get(), request.question, (image,), GroundTruth(""))

        async def work(emit: Callable[[pb.SolveResponse], None]) -> pb.SolveResponse:
            def on_turn(prefix: Prefix) -> None:
                if prefix.record is not None:
                    emit(pb.SolveResponse(turn=record_to_proto(prefix.record, image_inline)))

            trajectory = await solve(
                stepper,
                example,
                trajectory_id=f"solve/{example.example_id}",
                seed_path=(request.seed, "solve"),
                on_turn=on_turn,
            )
            return pb.SolveResponse(trajectory=trajectory_to_proto(trajectory, image_by_digest))

        async with aclosing(events_of(work)) as responses:
            async for response in responses:
                yield response

    async def Search(self, request: pb.SearchRequest, context: Any) -> AsyncIterator[pb.SearchResponse]:
        images = iter(await self._images.resolve_all(list(request.example.images)))
        example = example_from_proto(request.example, lambda _: next(images))
        search = await self._tree_search(request)
        tree = Tree(f"search/{request_id.get()}", example.example_id, request.policy)

        async def work(emit: Callable[[pb.SearchResponse], None]) -> pb.SearchResponse:
            async def journal(_: Entry) -> None:
                progress = pb.TreeProgress(
                    simulations=tree.simulations, rollouts=len(tree.rollouts), solved=tree.solved
                )
                emit(pb.SearchResponse(progress=progress))

            return pb.SearchResponse(tree=tree_to_proto(await search.search(example, tree, journal)))

        async with aclosing(events_of(work)) as responses:
            async for response in responses:
                yield response

    async def SearchDataset(
        self, request: pb.SearchDatasetRequest, context: Any
    ) -> AsyncIterator[pb.SearchDatasetResponse]:
        shards = max(1, request.shard_count)
        if request.shard_index >= shards:
            raise invalid("shard_index", f"less than shard_count ({shards})", request.shard_index)
        shard = Shard(request.shard_index, shards)
        layout = RunLayout(self._storage, request.run_id)
        store = ImageStore(self._storage)
        search = await self._tree_search(request, store)
        limit = search.config.limit or None
        stepper = search.simulator.stepper
        settings = search_settings(
            await stepper.info(),
            stepper.task,
            search.simulator.reward_config,
            search.config,
            seed=search.seed,
            dataset=f"{request.dataset}/{request.split}",
        )

        def read_shard() -> tuple[list[Example], list[str]]:
            """The search loads an image when its tree begins."""
            refuse_imported(layout)
            all_examples = read_dataset(self._storage, store, request.dataset, request.split, limit, with_images=False)
            claim_run(layout, settings)
            mine = [example for example in all_examples if shard.holds(example.example_id)]
            return mine, other_journals(layout, shard)

        examples, others = await asyncio.to_thread(read_shard)

        async def work(emit: Callable[[SearchProgress], None]) -> SearchProgress:
            progress = await search_dataset(
                examples,
                search,
                policy=request.policy,
                storage=self._storage,
                prefix=layout.search(shard.index),
                on_progress=emit,
                others=others,
            )
            await asyncio.to_thread(end_shard, layout, shard)
            return progress

        async with aclosing(events_of(work)) as steps:
            async for progress in steps:
                yield progress_to_proto(progress)

    async def close(self) -> None:
        await self._open.aclose()

    async def _tree_search(
        self, request: pb.SearchRequest | pb.SearchDatasetRequest, images: ImageStore | None = None
    ) -> TreeSearch:
        wired = await self._connected(request.policy)
        return TreeSearch(
            self._stepper(wired, request.task),
            wired.reward,
            search_from_proto(request.search),
            config_from_proto(request.reward),
            seed=request.seed,
            images=images,
        )

    async def _connected(self, policy: str) -> Wired:
        if policy not in self._wired:
            wired = await self._open.enter_async_context(connect(self._services, policy))
            # One pace for all calls: they load the same policy.
            self._wired[policy] = replace(wired, policy=PacedPolicy(wired.policy))
        return self._wired[policy]

    def _stepper(self, wired: Wired, task: TaskSettings) -> Stepper:
        load_image = ImageStore(self._storage).get
        return Stepper(wired.policy, wired.environment, task_from_proto(task), load_image=load_image)
