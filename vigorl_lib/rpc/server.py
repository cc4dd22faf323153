"""The scaffold of every server: from a service's parts to a process that serves, drains and ends.

`running` binds, answers health checks (alive, not ready) while it builds what the service needs, serves, and drains;
a service that says that only a new process helps ends it. `main` is a service's command line around it: it drains on
SIGTERM or SIGINT, and a second signal ends the process at once. A busy port or a wrong setting is one line on stderr
and an exit code, never a traceback. What a service does is not here.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vigorl_lib.config import Section, load
from vigorl_lib.errors import ConfigError, DataError, InternalError, VigorlError
from vigorl_lib.rpc.config import MAX_MESSAGE_BYTES, ServerConfig, bearer_token, read_pem
from vigorl_lib.rpc.logs import setup_logging
from vigorl_lib.rpc.loop import run_loop
from vigorl_lib.rpc.shell import Shell, watch_loop

LIVENESS = "liveness"
"""Health name that a liveness probe asks; the empty name and the service's full name mean readiness."""
HEALTH_CALLS = 64
"""Room for calls that admission does not count, such as watches of the health service."""
PROBE_EVERY_S = 1.0
PROBE_TIMEOUT_S = 20.0
"""A service that does not answer its own probe within this time is neither ready nor alive."""

SILENCES = 3
"""So many checks without an answer mean that only a new process helps."""

_log = logging.getLogger("vigorl.rpc")
# The type stubs of grpcio-health-checking leave out `health.aio`.
_HealthServicer: Any = vars(health)["aio"].HealthServicer
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ServiceSection(Section):
    """Base of a service's settings: what every server has."""

    server: ServerConfig = ServerConfig()


SettingsT = TypeVar("SettingsT", bound=ServiceSection)


@dataclass(frozen=True)
class Service:
    """A built service: how it joins a gRPC server, and how it says that it works."""

    full_name: str
    """As in the proto, for health checks and reflection."""
    register: Callable[[Any], None]
    """Adds the handlers to what it gets, which takes them as a `grpc.aio.Server` does."""
    probe: Callable[[], Awaitable[object]]
    """Returns while the service can work; asked every few seconds. Raises VigorlError for as long as it cannot."""
    alive: Callable[[], Awaitable[object]] | None = None
    """Returns while the service can come to work again; raises VigorlError once only a new process helps. Without it
    a service is alive while `probe` returns."""


Build = Callable[[], AbstractAsyncContextManager[Service]]
"""Opens a service's domain object and closes it after the drain."""


@asynccontextmanager
async def running(
    config: ServerConfig,
    build: Build,
    *,
    token: str | None = None,
    on_failure: Callable[[VigorlError], None] | None = None,
) -> AsyncIterator[str]:
    """A server that answers, as its address; leaving the block drains it.

    The port is taken before anything expensive is built, and health checks are answered from then on: alive, and not
    ready until the service is. Other calls are told LOADING. `on_failure` hears once that only a new process helps.
    Raises ConfigError (PORT_BUSY, INSECURE_LISTEN).
    """
    shell = Shell(max_concurrent_calls=config.max_concurrent_calls, min_budget_s=config.min_budget_s, token=token)
    server = grpc.aio.server(
        interceptors=[shell],
        # Above admission, which refuses with a time to wait: this bounds the messages that are held at once.
        maximum_concurrent_rpcs=config.max_concurrent_calls + HEALTH_CALLS,
        options=(
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Otherwise two servers share one port in silence.
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        ),
    )
    address = _bind(server, config, token)
    status = _HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    late = _LateHandlers()
    server.add_generic_rpc_handlers((late,))
    await status.set("", _NOT_SERVING)
    await status.set(LIVENESS, _SERVING)
    await server.start()
    watchers: list[asyncio.Task[None]] = []
    try:
        async with _plain_health(config, status), build() as service:
            service.register(late)
            if config.reflection and token is None:
                names = (service.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
                reflection.enable_server_reflection(names, cast(grpc.aio.Server, late))
            await _until_ready(service)
            shell.loading = False
            for name in ("", service.full_name):
                await status.set(name, _SERVING)
            watchers = [
                asyncio.create_task(_watch_health(service, status, on_failure)),
                asyncio.create_task(watch_loop()),
            ]
            try:
                yield address
            finally:
                for watcher in watchers:
                    watcher.cancel()
                await asyncio.gather(*watchers, return_exceptions=True)
                await status.enter_graceful_shutdown()
                await server.stop(config.drain_s)
    finally:
        # Also where the service could not be built.
        await server.stop(0)


@asynccontextmanager
async def _plain_health(config: ServerConfig, status: Any) -> AsyncIterator[None]:
    """The listener of `health_listen`, where there is one."""
    if not config.health_listen:
        yield
        return
    server = grpc.aio.server(maximum_concurrent_rpcs=HEALTH_CALLS, options=(("grpc.so_reuseport", 0),))
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    _add_port(server, config.health_listen, None)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


class _LateHandlers(grpc.GenericRpcHandler):
    """Takes handlers like a server, and does so after the server has started, which servers refuse to."""

    def __init__(self) -> None:
        self._handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._handlers.extend(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The same methods come by `add_generic_rpc_handlers` too; this way is only an optimisation of servers."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        return next((found for handler in self._handlers if (found := handler.service(call)) is not None), None)


async def _until_ready(service: Service) -> None:
    """Raises what the service's checks raise once waiting does not help."""
    while True:
        try:
            await service.probe()
            return
        except VigorlError as error:
            if not error.infrastructure:
                raise
        # Weights may be on their way in: that is no failure, unless the service says that it is.
        await (service.alive or service.probe)()
        await asyncio.sleep(0.1)


async def _watch_health(service: Service, status: Any, on_failure: Callable[[VigorlError], None] | None) -> None:
    silences = 0
    while True:
        await asyncio.sleep(PROBE_EVERY_S)
        ready = await _answers(service.probe) is None
        failure = await _answers(service.alive or service.probe)
        silences = silences + 1 if isinstance(failure, TimeoutError) else 0
        for name in ("", service.full_name):
            await status.set(name, _SERVING if ready and failure is None else _NOT_SERVING)
        await status.set(LIVENESS, _SERVING if failure is None else _NOT_SERVING)
        hung = silences >= SILENCES
        if service.alive is not None and (isinstance(failure, VigorlError) or hung):
            if on_failure is not None:
                on_failure(failure if isinstance(failure, VigorlError) else _silent(service))
            return


async def _answers(question: Callable[[], Awaitable[object]]) -> Exception | None:
    """What a service's own check raises, None if all is well."""
    try:
        await asyncio.wait_for(question(), PROBE_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - a check that breaks is a check that fails; the watch must go on
        if not isinstance(error, VigorlError | TimeoutError):
            _log.error("a health check broke", exc_info=error)
        return error
    return None


def _silent(service: Service) -> InternalError:
    waited_s = SILENCES * PROBE_TIMEOUT_S
    return InternalError(f"{service.full_name} has not answered its own check for {waited_s:.0f} s", reason="HUNG")


def _bind(server: grpc.aio.Server, config: ServerConfig, token: str | None) -> str:
    host, _, port = config.listen.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"server.listen: expected host:port, found {config.listen!r}", reason="LISTEN_INVALID")
    if not (is_loopback(host) or token or config.tls_certificate or config.allow_insecure):
        raise ConfigError(
            f"{config.listen} is reachable from other machines and has neither a token nor TLS; set "
            "VIGORL_AUTH__TOKEN or server.tls_certificate, or allow it with server.allow_insecure",
            reason="INSECURE_LISTEN",
        )
    return _add_port(server, config.listen, _server_credentials(config) if config.tls_certificate else None)


def _add_port(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> str:
    """Bind `listen`; the address with the port that it got. Raises ConfigError (PORT_BUSY)."""
    try:
        bound = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    except RuntimeError:
        bound = 0
    if not bound:
        raise ConfigError(
            f"cannot listen on {listen}: the port is taken, or the address is not of this machine; "
            "choose another address (port 0 takes a free one)",
            reason="PORT_BUSY",
            listen=listen,
        )
    return f"{listen.rpartition(':')[0]}:{bound}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _server_credentials(config: ServerConfig) -> grpc.ServerCredentials:
    assert config.tls_certificate is not None
    assert config.tls_key is not None
    authority = read_pem(config.tls_client_ca) if config.tls_client_ca else None
    pair = (read_pem(config.tls_key), read_pem(config.tls_certificate))
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def main(
    name: str,
    schema: type[SettingsT],
    build: Callable[[SettingsT], AbstractAsyncContextManager[Service]],
    arguments: list[str] | None = None,
) -> int:
    """A service's command line; returns the exit code: 0 drained, 1 failed, 2 wrong settings or port."""
    parser = argparse.ArgumentParser(prog=f"python -m vigorl_services.{name}")
    parser.add_argument("--config", metavar="FILE", required=True, help="JSON or YAML file with the settings")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--listen", metavar="HOST:PORT", help="default server.listen; port 0 takes a free one")
    parser.add_argument("--address-file", type=Path, help="written with the address once the service is ready")
    parser.add_argument("--metrics-port", type=int, help="default server.metrics_port")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    options = parser.parse_args(arguments)
    setup_logging(name, options.log_level)
    overrides = list(options.overrides)
    overrides += [f"server.listen={json.dumps(options.listen)}"] if options.listen else []
    overrides += [] if options.metrics_port is None else [f"server.metrics_port={options.metrics_port}"]
    try:
        settings = load(schema, options.config, folder=Path(), overrides=overrides)
        run_loop(_serve(name, settings.server, lambda: build(settings), options.address_file))
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 2
    except VigorlError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


async def _serve(name: str, config: ServerConfig, build: Build, address_file: Path | None) -> None:
    if config.metrics_port is not None:
        _start_metrics(config.metrics_port)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    # Until the service is ready there is nothing to drain, and a load of minutes would go on.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, os._exit, 128 + number)

    def fail(error: VigorlError) -> None:
        if not ended.done():
            ended.set_exception(error)

    async with running(config, build, token=bearer_token(), on_failure=fail) as address:
        sys.stdout.write(json.dumps({"service": name, "address": address, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        if address_file is not None:
            write_whole(address_file, address + "\n")
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _on_signal, number, ended)
        await ended


def _on_signal(number: int, ended: asyncio.Future[None]) -> None:
    if ended.done():
        os._exit(128 + number)
    ended.set_result(None)


def write_whole(path: Path, text: str) -> None:
    """A reader who polls for the file never sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _start_metrics(port: int) -> None:
    from prometheus_client import start_http_server

    try:
        start_http_server(port)
    except OSError as error:
        raise ConfigError(f"metrics port {port}: {error.strerror}; choose another", reason="PORT_BUSY") from None


def registrar(add: Callable[[Any, Any], None], servicer: object) -> Callable[[Any], None]:
    """`Service.register` from a generated `add_…_to_server` and the servicer."""
    return lambda server: add(servicer, server)
