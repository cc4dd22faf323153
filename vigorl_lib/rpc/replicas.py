"""The replicas of one service, and which of them answers a call.

Replicas are listed, or found behind the name of a headless service, which is looked up again and again.
Calls with the same key meet the same replica, whose caches know it, as long as that replica serves
(rendezvous hashing: one that comes or goes moves its own share and no other). One that cannot answer is
passed over for the next in the key's order. What a call says, and that it may be repeated, is the caller's affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from vigorl_lib.errors import ConfigError, RemoteError, StorageError, VigorlError
from vigorl_lib.rpc.channels import Connection, Connections, retry_after_s
from vigorl_lib.rpc.context import budget_s
from vigorl_lib.rpc.errors import RETRY_AFTER_S

T = TypeVar("T")

Work = Callable[[Connection, float], Awaitable[T]]
"""One try at one replica, within some seconds."""
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses (`ip:port`) behind a name and a port. Raises OSError where there are none."""

RESOLVE_EVERY_S = 30.0
DARK_ROUNDS = 5
"""Rounds without any replica that works, after which a call gives up: about five seconds, as gRPC does."""
FIRST_BACKOFF_S = 0.2
BACKOFF_FACTOR = 2.5

_DNS = "dns:///"
_TOO_OLD = "POLICY_TOO_OLD"
_FULL = frozenset({"OVERLOADED", "ADMISSION_LIMIT", "PREEMPTED"})
_LOST = "ENGINE_FAILED"
"""Two engines that break under one request are enough: it may be what breaks them."""
# CANCELLED is what a server says that ends a call with its drain; our own cancellations are no VigorlError.
_GONE = frozenset({"UNAVAILABLE", "CANCELLED", "LOADING", "ENGINE_CLOSED", "ENGINE_FAILED", "ENDPOINT_FAILED"})
_log = logging.getLogger("vigorl.rpc")

_Service = tuple[str, int]


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that this machine's resolver knows; those of IPv6 only where there are no others."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A pod with an address of each family is one replica.
    of_v4 = sorted({f"{address[0]!s}:{port}" for family, *_, address in found if family == socket.AF_INET})
    return of_v4 or sorted({f"[{address[0]!s}]:{port}" for *_, address in found})


class Replicas:
    """`targets` is `host:port` or `dns:///name:port` of a headless service, or several of them with commas.

    A single `host:port` is left to gRPC: it tries again by itself, and every refusal goes to the caller at once.
    """

    def __init__(self, targets: str, connections: Connections, *, resolve: Resolve = resolve_host) -> None:
        """Raises ConfigError (TARGET_INVALID)."""
        names = [name for target in targets.split(",") if (name := target.strip())]
        if not names:
            raise _invalid(targets)
        self._pool = connections
        self._resolve = resolve
        self._services = [_service(name) for name in names if name.startswith(_DNS)]
        self._only = connections.to(names[0]) if len(names) == 1 and not self._services else None
        fixed = [] if self._only is not None else [name for name in names if not name.startswith(_DNS)]
        self._fixed = {name: connections.replica(name) for name in fixed}
        self._found: dict[_Service, dict[str, Connection]] = {}
        self._leaving: list[Connection] = []
        self._looked_up_at = -math.inf
        self._look_up: asyncio.Task[None] | None = None

    async def everyone(self) -> list[Connection]:
        """All replicas that there are at this moment. Raises RemoteError (UNAVAILABLE) where there are none."""
        if self._only is not None:
            return [self._only]
        await self._refresh()
        members = list(self._members().values())
        if not members:
            raise self._nobody()
        return members

    async def call(self, key: str, work: Work[T], *, timeout_s: float | None = None) -> T:
        """What `work` gets from the first replica, in the order of `key`, that can answer.

        It is repeated elsewhere after POLICY_TOO_OLD, overload and faults of the replica. Where some are overloaded
        and none answers, the call waits as they tell it to and asks all of them again, up to `timeout_s` (by default
        that of a call that works with a model); then it raises what it was told last.
        """
        end = time.monotonic() + budget_s(self._pool.config.timeout_s if timeout_s is None else timeout_s)
        if self._only is not None:
            return await work(self._only, end - time.monotonic())
        dark_rounds = 0
        while True:
            try:
                return await self._round(key, work, end)
            except _NobodyAnswered as nobody:
                refusals = nobody.refusals
            full = [error for error in refusals if error.reason in _FULL]
            dark_rounds += not full
            wait_s = _told_to_wait_s(full) if full else FIRST_BACKOFF_S * BACKOFF_FACTOR ** (dark_rounds - 1)
            wait_s *= random.uniform(1.0, 1.5)
            too_old = all(error.reason == _TOO_OLD for error in refusals)
            if too_old or dark_rounds >= DARK_ROUNDS or time.monotonic() + wait_s >= end:
                raise refusals[-1]
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Closes what was opened for this service alone."""
        if self._look_up is not None:
            self._look_up.cancel()
            await asyncio.gather(self._look_up, return_exceptions=True)
        for connection in [*self._members().values(), *self._leaving]:
            await connection.close()

    async def _round(self, key: str, work: Work[T], end: float) -> T:
        """Ask each replica once, up to the first answer."""
        refusals: list[VigorlError] = []
        for connection in await self._order(key):
            if connection.target not in self._members():
                # It has left while another one was asked, and may be closed by now.
                continue
            try:
                return await work(connection, end - time.monotonic())
            except VigorlError as error:
                lost = error.reason == _LOST and any(before.reason == _LOST for before in refusals)
                if lost or not _elsewhere(error) or time.monotonic() >= end:
                    raise
                refusals.append(error)
                _log.debug("replica passed over", extra={"target": connection.target, "reason": error.reason})
                if error.reason in _GONE and self._services:
                    self._start_look_up()
        raise _NobodyAnswered(refusals)

    async def _order(self, key: str) -> list[Connection]:
        """The replicas as calls with this key prefer them; never none."""
        if self._looked_up_at == -math.inf or not self._members():
            await self._refresh()
        elif self._services and time.monotonic() - self._looked_up_at > RESOLVE_EVERY_S:
            self._start_look_up()
        members = self._members()
        if not members:
            raise _NobodyAnswered([self._nobody()])
        return sorted(members.values(), key=lambda one: _rank(one.target, key), reverse=True)

    def _members(self) -> dict[str, Connection]:
        members = dict(self._fixed)
        for found in self._found.values():
            members |= found
        return members

    def _nobody(self) -> RemoteError:
        names = ", ".join(f"{host}:{port}" for host, port in self._services)
        return RemoteError(f"no address behind {names}", reason="UNAVAILABLE", infrastructure=True, target=names)

    async def _refresh(self) -> None:
        # Whoever stops waiting must not stop the look-up for the others.
        await asyncio.shield(self._start_look_up())

    def _start_look_up(self) -> asyncio.Task[None]:
        if self._look_up is None or self._look_up.done():
            self._look_up = asyncio.create_task(self._find())
        return self._look_up

    async def _find(self) -> None:
        """Look up every name; one that has no address at the moment keeps those that it had."""
        for host, port in self._services:
            try:
                addresses = await self._resolve(host, port)
            except OSError as error:
                _log.warning("a name has no address", extra={"target": f"{host}:{port}", "error": str(error)})
                continue
            if addresses:
                self._take((host, port), addresses)
        self._looked_up_at = time.monotonic()
        idle = [connection for connection in self._leaving if not connection.calls]
        self._leaving = [connection for connection in self._leaving if connection.calls]
        for connection in idle:
            await connection.close()

    def _take(self, service: _Service, addresses: Sequence[str]) -> None:
        known = self._found.get(service, {})
        self._leaving += [connection for address, connection in known.items() if address not in addresses]
        self._found[service] = {
            address: known.get(address) or self._pool.replica(address, authority=service[0]) for address in addresses
        }


class _NobodyAnswered(Exception):
    """A round is over."""

    def __init__(self, refusals: list[VigorlError]) -> None:
        super().__init__()
        self.refusals = refusals


def _service(target: str) -> _Service:
    host, _, port = target.removeprefix(_DNS).rpartition(":")
    if not host or not port.isdigit():
        raise _invalid(target)
    return host, int(port)


def _invalid(target: str) -> ConfigError:
    return ConfigError(f"a target is host:port or dns:///name:port, found {target!r}", reason="TARGET_INVALID")


def _rank(target: str, key: str) -> bytes:
    return hashlib.sha256(f"{target} {key}".encode()).digest()


def _elsewhere(error: VigorlError) -> bool:
    """Whether another replica may answer where one has failed like this."""
    known = error.reason == _TOO_OLD or error.reason in _FULL or error.reason in _GONE
    return known or (isinstance(error, StorageError) and error.infrastructure)


def _told_to_wait_s(refusals: Sequence[VigorlError]) -> float:
    told = [wait_s for error in refusals if (wait_s := retry_after_s(error)) is not None]
    return min(told, default=RETRY_AFTER_S)
