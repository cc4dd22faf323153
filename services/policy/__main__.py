"""The policy service, one process a named policy: `python -m vigorl_services.policy --config student.json`."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pydantic import Field

from vigorl_lib.errors import ConfigError, PolicyError
from vigorl_lib.policy.base import Engine, PolicyState
from vigorl_lib.policy.config import PolicyConfig
from vigorl_lib.policy.engines import open_policy
from vigorl_lib.policy.follow import catch_up, follow_weights
from vigorl_lib.rpc.config import ServerConfig, bearer_token
from vigorl_lib.rpc.gen.vigorl.policy.v1.policy_service_pb2_grpc import (
    add_PolicyAdminServiceServicer_to_server,
    add_PolicyServiceServicer_to_server,
)
from vigorl_lib.rpc.loop import COLLECTOR
from vigorl_lib.rpc.server import Service, is_loopback, main, registrar, running, write_whole
from vigorl_services.policy.server import PolicyAdminServer, PolicyServer
from vigorl_services.settings import ImageServiceSection

log = logging.getLogger(__name__)


class PolicyServiceConfig(ImageServiceSection):
    """Settings of one policy service."""

    policy: PolicyConfig
    admin: ServerConfig = ServerConfig()
    """The listener of PolicyAdminService; only a policy that a run may train has one."""
    admin_address_file: Path | None = None
    """Written with the address of that listener."""
    follow_every_s: float = Field(default=2.0, gt=0.0)
    """How often `CURRENT` below `policy.weights_root` is read for newer weights."""


@asynccontextmanager
async def build(config: PolicyServiceConfig) -> AsyncIterator[Service]:
    policy = await asyncio.to_thread(open_policy, config.policy)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(policy.close)
        if config.policy.trainable_by and config.policy.weights_root:
            # Published while the engine was loading.
            await catch_up(policy, config.policy.weights_root, config.policy.trainable_by)
        if config.policy.trainable_by:
            await stack.enter_async_context(_admin(policy, config))
        if config.policy.trainable_by and config.policy.weights_root:
            await stack.enter_async_context(
                follow_weights(
                    policy, config.policy.weights_root, config.policy.trainable_by, every_s=config.follow_every_s
                )
            )
        server = PolicyServer(policy, config.policy.name, config.open_images())

        async def ready() -> None:
            state = await policy.state()
            if state is not PolicyState.SERVING:
                raise PolicyError(f"policy {config.policy.name} is {state}", reason=state.name, infrastructure=True)

        async def alive() -> None:
            if await policy.state() is PolicyState.FAILED:
                raise PolicyError(
                    f"the engine of policy {config.policy.name} has ended", reason="ENGINE_FAILED", infrastructure=True
                )

        register = registrar(add_PolicyServiceServicer_to_server, server)
        yield Service("vigorl.policy.v1.PolicyService", register, ready, alive)


@asynccontextmanager
async def _admin(policy: Engine, config: PolicyServiceConfig) -> AsyncIterator[None]:
    """The second listener."""

    @asynccontextmanager
    async def build_admin() -> AsyncIterator[Service]:
        server = PolicyAdminServer(policy, config.policy.name)
        register = registrar(add_PolicyAdminServiceServicer_to_server, server)
        yield Service("vigorl.policy.v1.PolicyAdminService", register, policy.info)

    token = bearer_token(admin=True)
    host = config.admin.listen.rpartition(":")[0]
    if not (is_loopback(host) or token or config.admin.tls_client_ca or config.admin.allow_insecure):
        raise ConfigError(
            f"{config.admin.listen} takes new weights from anybody who reaches it; set VIGORL_AUTH__ADMIN_TOKEN or "
            "admin.tls_client_ca, or allow it with admin.allow_insecure",
            reason="INSECURE_LISTEN",
        )
    async with running(config.admin, build_admin, token=token) as address:
        log.info("policy %s takes new weights at %s", config.policy.name, address)
        if config.admin_address_file is not None:
            write_whole(config.admin_address_file, address + "\n")
        yield


if __name__ == "__main__":
    gc.set_threshold(*COLLECTOR)
    sys.exit(main("policy", PolicyServiceConfig, build))
