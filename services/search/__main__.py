"""The search service: `python -m vigorl_services.search --config search.json`."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field

from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.gen.vigorl.search.v1.search_service_pb2_grpc import add_SearchServiceServicer_to_server
from vigorl_lib.rpc.loop import COLLECTOR
from vigorl_lib.rpc.server import Service, main, registrar
from vigorl_lib.storage.base import open_storage
from vigorl_services.search.server import SearchServer
from vigorl_services.settings import ImageServiceSection


class SearchServiceConfig(ImageServiceSection):
    """Settings of the search service; `root` is where data sets are read and journals written."""

    root: str = Field(min_length=1)
    services: ServicesConfig
    """Where the policies, the environment and the reward are."""


@asynccontextmanager
async def build(config: SearchServiceConfig) -> AsyncIterator[Service]:
    server = SearchServer(config.services, open_storage(config.root), config.open_images())

    async def probe() -> None:
        """The event loop is all that can be stuck here, and it just answered."""

    yield Service("vigorl.search.v1.SearchService", registrar(add_SearchServiceServicer_to_server, server), probe)
    await server.close()


if __name__ == "__main__":
    gc.set_threshold(*COLLECTOR)
    sys.exit(main("search", SearchServiceConfig, build))
