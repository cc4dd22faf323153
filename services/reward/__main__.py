"""The reward service: `python -m vigorl_services.reward --config reward.json`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vigorl_lib.reward.rules import LocalReward
from vigorl_lib.rpc.gen.vigorl.reward.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server
from vigorl_lib.rpc.server import Service, ServiceSection, main, registrar
from vigorl_services.reward.server import RewardServer


class RewardServiceConfig(ServiceSection):
    """Settings of the reward service."""

    root: str = ""
    """Storage root of the installation; rules need none of it."""


@asynccontextmanager
async def build(config: RewardServiceConfig) -> AsyncIterator[Service]:
    reward = LocalReward()

    async def probe() -> None:
        """The event loop is all that can be stuck here, and it just answered."""

    register = registrar(add_RewardServiceServicer_to_server, RewardServer(reward))
    yield Service("vigorl.reward.v1.RewardService", register, probe)
    await reward.close()


if __name__ == "__main__":
    sys.exit(main("reward", RewardServiceConfig, build))
