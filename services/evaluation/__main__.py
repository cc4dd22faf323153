"""The evaluation service: `python -m vigorl_services.evaluation --config evaluation.json`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field

from vigorl_lib.rollout.wiring import ServicesConfig
from vigorl_lib.rpc.gen.vigorl.evaluation.v1.evaluation_service_pb2_grpc import add_EvaluationServiceServicer_to_server
from vigorl_lib.rpc.server import Service, ServiceSection, main, registrar
from vigorl_lib.storage.base import open_storage
from vigorl_services.evaluation.server import EvaluationServer


class EvaluationServiceConfig(ServiceSection):
    """Settings of the evaluation service; `root` is where data sets are read and records written."""

    root: str = Field(min_length=1)
    services: ServicesConfig
    """Where the policies, the environment and the reward are."""
    samples_in_flight: int = Field(default=256, ge=1)
    """Of one call, at most; within it the policy's load decides."""


@asynccontextmanager
async def build(config: EvaluationServiceConfig) -> AsyncIterator[Service]:
    server = EvaluationServer(config.services, open_storage(config.root), config.samples_in_flight)

    async def probe() -> None:
        """The event loop is all that can be stuck here, and it just answered."""

    register = registrar(add_EvaluationServiceServicer_to_server, server)
    yield Service("vigorl.evaluation.v1.EvaluationService", register, probe)


if __name__ == "__main__":
    sys.exit(main("evaluation", EvaluationServiceConfig, build))
