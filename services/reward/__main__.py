"""The reward service: `python -m vigorl_services.reward --config reward.json`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field

from vigorl_lib.reward.config import JudgeConfig
from vigorl_lib.reward.custom import load_rules
from vigorl_lib.reward.judge import Judge
from vigorl_lib.reward.local import LocalReward
from vigorl_lib.rpc.gen.vigorl.reward.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server
from vigorl_lib.rpc.server import Service, ServiceSection, main, registrar
from vigorl_lib.storage.base import open_storage
from vigorl_lib.storage.images import ImageStore
from vigorl_services.reward.server import RewardServer


class RewardServiceConfig(ServiceSection):
    """Settings of the reward service."""

    root: str = ""
    """Storage root whose images a judge is shown; rules need none of it."""
    judge: JudgeConfig | None = None
    """Who decides about free answers."""
    rules: dict[str, str] = Field(default_factory=dict)
    """A user's own rules: `module:function` by the name that requests call them."""


@asynccontextmanager
async def build(config: RewardServiceConfig) -> AsyncIterator[Service]:
    judge = None if config.judge is None else await asyncio.to_thread(_judge, config.judge, config.root)
    reward = LocalReward(judge, load_rules(config.rules))

    async def probe() -> None:
        """The event loop is all that can be stuck here, and it just answered."""

    register = registrar(add_RewardServiceServicer_to_server, RewardServer(reward))
    yield Service("vigorl.reward.v1.RewardService", register, probe)
    await reward.close()


def _judge(config: JudgeConfig, root: str) -> Judge:
    return Judge.open(config, ImageStore(open_storage(root)).load if root else None)


if __name__ == "__main__":
    sys.exit(main("reward", RewardServiceConfig, build))
