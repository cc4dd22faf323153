"""Connections to servers: one channel per target, shared by all clients of a process that talk to it.

A `Connection` is a target with its channel, credentials and the images it has been given. It makes
calls with a deadline and turns failures into our errors. UNAVAILABLE alone is tried again, by gRPC
itself; every method of ours may be repeated. `Connections` opens each target once, and `Client` is the base
of all that talk through them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from vigorl_lib.rpc.config import MAX_MESSAGE_BYTES, ClientConfig, bearer_token
from vigorl_lib.rpc.context import budget_s, request_id
from vigorl_lib.rpc.errors import from_call
from vigorl_lib.rpc.images import SentImages

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2.5,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [{"name": [{}], "retryPolicy": RETRY_POLICY}],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A request larger than this buffer would never be tried again.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    # gRPC's own back-off grows to two minutes, long after a restarted server is back.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Connection:
    """One target. The channel opens at the first call, on the event loop of that call."""

    def __init__(self, target: str, config: ClientConfig | None = None, *, token: str | None = None) -> None:
        self.target = target
        self.config = config or ClientConfig()
        self.sent_images = SentImages()
        self._authorization = [("authorization", f"Bearer {token}")] if token else []
        self._channel: grpc.aio.Channel | None = None
        self._stubs: dict[Callable[[grpc.aio.Channel], Any], Any] = {}

    def stub(self, make: Callable[[grpc.aio.Channel], Any]) -> Any:
        """The generated stub that `make` gives for this channel, made once."""
        if make not in self._stubs:
            self._stubs[make] = make(self.channel)
        return self._stubs[make]

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            credentials = self._credentials()
            self._channel = (
                grpc.aio.insecure_channel(self.target, options=_OPTIONS)
                if credentials is None
                else grpc.aio.secure_channel(self.target, credentials, options=_OPTIONS)
            )
        return self._channel

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
    ) -> ResponseT:
        """One answer, within `timeout_s` (by default the quick deadline). Raises the server's VigorlError."""
        wanted_s = self.config.quick_timeout_s if timeout_s is None else timeout_s
        try:
            return await method(request, timeout=budget_s(wanted_s), metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from None

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ResponseT]:
        """The answers as they come, without a deadline unless given one. Leaving the loop ends the call."""
        call = method(request, timeout=timeout_s, metadata=self._metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from None
        finally:
            call.cancel()

    async def close(self) -> None:
        if self._channel is not None:
            channel, self._channel = self._channel, None
            self._stubs.clear()
            await channel.close()

    def _metadata(self) -> list[tuple[str, str]]:
        current = request_id.get()
        return [*self._authorization, ("x-request-id", current)] if current else self._authorization

    def _credentials(self) -> grpc.ChannelCredentials | None:
        config = self.config
        if config.tls_ca is None:
            return None
        key = config.tls_key.read_bytes() if config.tls_key else None
        chain = config.tls_certificate.read_bytes() if config.tls_certificate else None
        return grpc.ssl_channel_credentials(config.tls_ca.read_bytes(), key, chain)


class Connections:
    """The connections of one process, by target."""

    def __init__(self, config: ClientConfig | None = None, *, token: str | None = None) -> None:
        """`token` is the process's own (`bearer_token`) unless given."""
        self._config = config or ClientConfig()
        self._token = bearer_token() if token is None else token
        self._connections: dict[str, Connection] = {}

    def to(self, target: str) -> Connection:
        if target not in self._connections:
            self._connections[target] = Connection(target, self._config, token=self._token)
        return self._connections[target]

    async def close(self) -> None:
        for connection in self._connections.values():
            await connection.close()


class Client:
    """Base of the clients: one or several targets, separated by commas.

    Connections that are handed in stay open when the client closes; those that it opened itself do not.
    """

    def __init__(self, targets: str, *, connections: Connections | None = None) -> None:
        self._pool = Connections() if connections is None else connections
        self._owns_pool = connections is None
        self._connections = [self._pool.to(target.strip()) for target in targets.split(",")]

    async def close(self) -> None:
        if self._owns_pool:
            await self._pool.close()
