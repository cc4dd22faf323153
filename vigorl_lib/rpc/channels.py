"""Connections to servers: one channel per target, shared by all clients of a process that talk to it.

A `Connection` is a target with its channel, credentials and the images it has been given. It makes
calls with a deadline and turns failures into our errors. UNAVAILABLE alone is tried again, by gRPC
itself; every method of ours may be repeated. `Connections` opens each target once, and `Client` is the base
of those that leave it to gRPC which replica answers (`vigorl_lib.rpc.replicas` is for those that do not).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from vigorl_lib.errors import VigorlError
from vigorl_lib.rpc.config import MAX_MESSAGE_BYTES, ClientConfig, bearer_token, read_pem, read_token
from vigorl_lib.rpc.context import budget_s, request_id
from vigorl_lib.rpc.errors import DETAILS_KEY, from_call
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
_ROUND_ROBIN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_RETRYING = {**_ROUND_ROBIN, "methodConfig": [{"name": [{}], "retryPolicy": RETRY_POLICY}]}
_OPTIONS = (
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
    """One target. The channel opens at the first call, on the event loop of that call.

    `authority` is the name that the server's certificate must have, where that is not the target's own.
    """

    def __init__(
        self,
        target: str,
        config: ClientConfig | None = None,
        *,
        token: str | None = None,
        authority: str = "",
        retries: bool = True,
    ) -> None:
        self.target = target
        self.config = config or ClientConfig()
        self.sent_images = SentImages()
        self.calls = 0
        """Calls that are under way."""
        self._options: list[tuple[str, str | int]] = [
            *_OPTIONS,
            ("grpc.service_config", json.dumps(_RETRYING if retries else _ROUND_ROBIN)),
        ]
        if name := self.config.authority or authority:
            option = "grpc.ssl_target_name_override" if self.config.speaks_tls else "grpc.default_authority"
            self._options.append((option, name))
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
                grpc.aio.insecure_channel(self.target, options=self._options)
                if credentials is None
                else grpc.aio.secure_channel(self.target, credentials, options=self._options)
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
        self.calls += 1
        try:
            return await method(request, timeout=budget_s(wanted_s), metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from error
        finally:
            self.calls -= 1

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[RequestT, ResponseT],
        request: RequestT,
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[ResponseT]:
        """The answers as they come, without a deadline unless given one. Leaving the loop ends the call."""
        call = method(request, timeout=timeout_s, metadata=self._metadata())
        self.calls += 1
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_call(error, self.target) from error
        finally:
            self.calls -= 1
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
        if not config.speaks_tls:
            return None
        key = read_pem(config.tls_key) if config.tls_key else None
        chain = read_pem(config.tls_certificate) if config.tls_certificate else None
        return grpc.ssl_channel_credentials(read_pem(config.tls_ca) if config.tls_ca else None, key, chain)


def retry_after_s(error: VigorlError) -> float | None:
    """Seconds that the server told to wait when it refused the call that raised `error`; None if it told nothing."""
    failure = error.__cause__
    trailers = (failure.trailing_metadata() if isinstance(failure, grpc.aio.AioRpcError) else None) or ()
    packed = next((value for key, value in trailers if key == DETAILS_KEY), b"")
    hint = RetryInfo()
    try:
        details = Status.FromString(packed).details
    except DecodeError:
        return None
    return next((hint.retry_delay.ToTimedelta().total_seconds() for detail in details if detail.Unpack(hint)), None)


class Connections:
    """The connections of one process, by target."""

    def __init__(self, config: ClientConfig | None = None, *, token: str | None = None) -> None:
        """`token` is that of the settings' file, or the process's own (`bearer_token`), unless given.

        Raises ConfigError (TOKEN_FILE_UNREADABLE).
        """
        self.config = config or ClientConfig()
        if token is None:
            token = read_token(self.config.token_file) if self.config.token_file else bearer_token()
        self._token = token
        self._connections: dict[str, Connection] = {}

    def to(self, target: str) -> Connection:
        """The connection that all share; closed with the others."""
        if target not in self._connections:
            self._connections[target] = Connection(target, self.config, token=self._token)
        return self._connections[target]

    def replica(self, target: str, *, authority: str = "") -> Connection:
        """A connection for the caller alone, who closes it and decides what is tried again, and where."""
        return Connection(target, self.config, token=self._token, authority=authority, retries=False)

    def admin(self) -> Connections:
        """The same settings with the token for admin listeners."""
        return Connections(self.config, token=bearer_token(admin=True) or self._token)

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
