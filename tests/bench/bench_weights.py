"""Seconds a replica takes for a version of the tiny model: from the learner over gloo, and from a local file."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

from tests.bench.tiny import tiny_model
from vigorl_lib.models.loading import load_model
from vigorl_lib.policy.config import PolicyConfig, VllmConfig
from vigorl_lib.policy.vllm import VllmPolicy
from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.config import ServerConfig
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyAdminServiceServicer_to_server
from vigorl_lib.rpc.server import Service, registrar, running
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.layout import RunLayout
from vigorl_lib.training.transfer import WeightSender
from vigorl_lib.training.weights import current_weights, publish_weights
from vigorl_services.policy.server import PolicyAdminServer

RUN, ROUNDS = "run-1", 11


def run() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(RunLayout(open_storage(folder), RUN)))


async def _measure(layout: RunLayout) -> dict[str, float]:
    config = PolicyConfig(
        name="tiny",
        engine="vllm",
        model=str(tiny_model()),
        trainable_by=RUN,
        weights_root=f"{layout.storage.uri.rstrip('/')}/{layout.weights}",
        max_context_tokens=512,
        vllm=VllmConfig(compile=False, kv_cache_gib=0.25, weight_transfer="gloo"),
    )
    tensors = load_model(config.model).model.state_dict()
    policy = await asyncio.to_thread(VllmPolicy.open, config)
    times: dict[str, list[float]] = {"transfer_s": [], "publish_s": [], "load_s": []}
    async with _listening(policy) as address:
        sender = WeightSender(ServicesConfig(policy_admin={"tiny": address}), "tiny", "gloo", RUN)
        for version in range(1, 2 * ROUNDS, 2):
            begin = time.perf_counter()
            await asyncio.to_thread(sender.send, version, tensors)
            times["transfer_s"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            await asyncio.to_thread(publish_weights, layout, version + 1, tensors, keep=2)
            times["publish_s"].append(time.perf_counter() - begin)
            wanted = current_weights(layout)
            assert wanted is not None
            begin = time.perf_counter()
            await policy.update_weights(version=wanted.version, uri=wanted.uri, run_id=RUN)
            times["load_s"].append(time.perf_counter() - begin)
    await policy.close()
    # The first round warms up.
    return {name: median(values[1:]) for name, values in times.items()}


@asynccontextmanager
async def _listening(policy: VllmPolicy) -> AsyncIterator[str]:
    @asynccontextmanager
    async def build() -> AsyncIterator[Service]:
        register = registrar(add_PolicyAdminServiceServicer_to_server, PolicyAdminServer(policy, "tiny"))
        yield Service("vigorl.policy.v1.PolicyAdminService", register, policy.info)

    async with running(ServerConfig(listen="127.0.0.1:0"), build) as address:
        yield address
