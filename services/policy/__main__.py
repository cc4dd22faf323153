"""The policy service, one process a named policy: `python -m vigorl_services.policy --config student.json`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.engines import open_policy
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import add_PolicyServiceServicer_to_server
from vigorl_lib.rpc.server import Service, main, registrar
from vigorl_services.policy.server import PolicyServer
from vigorl_services.settings import ImageServiceSection


class PolicyServiceConfig(ImageServiceSection):
    """Settings of one policy service."""

    policy: PolicyConfig


@asynccontextmanager
async def build(config: PolicyServiceConfig) -> AsyncIterator[Service]:
    policy = await asyncio.to_thread(open_policy, config.policy)
    server = PolicyServer(policy, config.policy.name, config.open_images())
    register = registrar(add_PolicyServiceServicer_to_server, server)
    yield Service("vigorl.policy.v1.PolicyService", register, policy.info)
    await policy.close()


if __name__ == "__main__":
    sys.exit(main("policy", PolicyServiceConfig, build))
