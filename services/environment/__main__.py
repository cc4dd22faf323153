"""The environment service: `python -m vigorl_services.environment --config environment.json`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field

from vigorl_lib.environment.state import configured_key
from vigorl_lib.environment.zoom import DEFAULT_CACHE_BYTES, ZoomEnvironment
from vigorl_lib.rpc.gen.vigorl.environment.v1.environment_service_pb2_grpc import (
    add_EnvironmentServiceServicer_to_server,
)
from vigorl_lib.rpc.server import Service, main, registrar
from vigorl_services.environment.server import EnvironmentServer
from vigorl_services.settings import ImageServiceSection


class EnvironmentServiceConfig(ImageServiceSection):
    """Settings of the environment service. The key of its states comes from `VIGORL_STATE__KEY`."""

    decoded_cache_bytes: int = Field(default=DEFAULT_CACHE_BYTES, ge=0)
    """Decoded originals kept in memory."""
    threads: int = Field(default=2, ge=1)
    """Threads that decode, resize and encode."""


@asynccontextmanager
async def build(config: EnvironmentServiceConfig) -> AsyncIterator[Service]:
    environment = ZoomEnvironment(key=configured_key(), cache_bytes=config.decoded_cache_bytes, threads=config.threads)
    server = EnvironmentServer(environment, config.open_images())

    async def probe() -> None:
        """The event loop is all that can be stuck here, and it just answered."""

    add = add_EnvironmentServiceServicer_to_server
    yield Service("vigorl.environment.v1.EnvironmentService", registrar(add, server), probe)
    await environment.close()


if __name__ == "__main__":
    sys.exit(main("environment", EnvironmentServiceConfig, build))
