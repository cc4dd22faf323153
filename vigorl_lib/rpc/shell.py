"""What every call passes through on a server, in one interceptor around the servicer.

In this order: token, loading; request id and deadline into the call's context, deadline, admission; then the
servicer; then metrics, one line in the log, and the error table. Health and reflection calls pass by.
A method that the servicer does not define answers UNIMPLEMENTED / NOT_IMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import hmac
import inspect
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import grpc.aio

from vigorl_lib.errors import RemoteError, VigorlError
from vigorl_lib.rpc import context
from vigorl_lib.rpc.errors import code_of, told, trailing_metadata, unexpected
from vigorl_lib.rpc.metrics import CallMetrics

_OWN_METHODS = "/vigorl."
_SLOW_S = 5.0
"""A successful call that took longer than this is worth a line at level info."""
_log = logging.getLogger("vigorl.rpc")

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class RefusedCall(VigorlError, RuntimeError):
    """A call that the shell does not let through to the servicer."""

    category = "call"


class Shell(grpc.aio.ServerInterceptor):
    """One server's shell; `in_flight` counts the calls inside, `loading` is for whoever builds the service to end."""

    def __init__(self, *, max_concurrent_calls: int, min_budget_s: float, token: str | None = None) -> None:
        self._max_concurrent_calls = max_concurrent_calls
        self._min_budget_s = min_budget_s
        self._authorization = f"Bearer {token}".encode() if token else None
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._metrics = CallMetrics()
        self.in_flight = 0
        self.loading = True

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        if method.startswith(_OWN_METHODS):
            metadata = dict(handler_call_details.invocation_metadata or ())
            if not self._is_authorized(str(metadata.get("authorization", ""))):
                return _UNAUTHORIZED
            if self.loading:
                return _LOADING
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is not None and method.startswith(_OWN_METHODS):
            handler = self._handlers[method] = self._wrapped(method, handler)
        return handler

    def _is_authorized(self, given: str) -> bool:
        return self._authorization is None or hmac.compare_digest(given.encode(), self._authorization)

    def _wrapped(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.response_streaming:
            stream = handler.unary_stream if inspect.isasyncgenfunction(handler.unary_stream) else _missing_stream
            return grpc.unary_stream_rpc_method_handler(self._stream(method, stream), *codec)
        unary = handler.unary_unary if inspect.iscoroutinefunction(handler.unary_unary) else _missing
        return grpc.unary_unary_rpc_method_handler(self._unary(method, unary), *codec)

    def _unary(self, method: str, serve: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, servicer_context: ServicerContext) -> Any:
            begin, failure = time.monotonic(), None
            try:
                with self._admitted(servicer_context):
                    return await serve(request, servicer_context)
            except Exception as error:  # noqa: BLE001 - the one place where every failure gets its status
                failure = error
                await _abort(servicer_context, failure)
            finally:
                self._finish(method, begin, failure, servicer_context)

        return call

    def _stream(self, method: str, serve: Callable[..., AsyncGenerator[Any]]) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, servicer_context: ServicerContext) -> AsyncIterator[Any]:
            begin, failure = time.monotonic(), None
            try:
                with self._admitted(servicer_context):
                    async with aclosing(serve(request, servicer_context)) as responses:
                        async for response in responses:
                            yield response
            except Exception as error:  # noqa: BLE001 - the one place where every failure gets its status
                failure = error
                await _abort(servicer_context, failure)
            finally:
                self._finish(method, begin, failure, servicer_context)

        return call

    @contextmanager
    def _admitted(self, servicer_context: ServicerContext) -> Iterator[None]:
        metadata = dict(servicer_context.invocation_metadata() or ())
        context.request_id.set(str(metadata.get("x-request-id") or uuid.uuid4().hex[:16]))
        remaining_s = servicer_context.time_remaining()
        if remaining_s is not None:
            context.deadline.set(time.monotonic() + remaining_s)
            if remaining_s < self._min_budget_s:
                raise RefusedCall(
                    f"{remaining_s * 1000:.1f} ms are left, at least {self._min_budget_s * 1000:.1f} ms are needed",
                    reason="DEADLINE_TOO_SHORT",
                )
        if self.in_flight >= self._max_concurrent_calls:
            raise RefusedCall(
                f"{self.in_flight} calls are in flight, the most that this server admits; try again soon",
                reason="ADMISSION_LIMIT",
                infrastructure=True,
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def _finish(self, method: str, begin: float, failure: Exception | None, servicer_context: ServicerContext) -> None:
        seconds = time.monotonic() - begin
        code = "OK"
        if isinstance(failure, VigorlError):
            code = code_of(told(failure)).name
        elif failure is not None:
            code = grpc.StatusCode.INTERNAL.name
        elif servicer_context.cancelled():
            code = grpc.StatusCode.CANCELLED.name
        self._metrics.observe(method, code, seconds, self.in_flight)
        level = logging.DEBUG if code == "OK" and seconds < _SLOW_S else logging.INFO
        if _log.isEnabledFor(level):
            fields: dict[str, object] = {"method": method, "code": code, "seconds": round(seconds, 4)}
            fields["peer"] = servicer_context.peer()
            if isinstance(failure, VigorlError):
                fields |= {"reason": failure.reason, "error": failure.message}
            _log.log(level, "call", extra=fields)


async def _abort(servicer_context: ServicerContext, failure: Exception) -> None:
    if isinstance(failure, grpc.aio.AbortError):
        raise failure
    known = told(failure) if isinstance(failure, VigorlError) else unexpected(failure)
    await servicer_context.abort(code_of(known), known.message, trailing_metadata(known))


def _refusing(refusal: RefusedCall) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler that refuses without reading the request. Also right for a stream: it ends before its first message."""

    async def refuse(request: object, servicer_context: ServicerContext) -> None:
        await servicer_context.abort(code_of(refusal), refusal.message, trailing_metadata(refusal))

    return grpc.unary_unary_rpc_method_handler(refuse)


_LOADING = _refusing(RefusedCall("this server is still loading", reason="LOADING", infrastructure=True))
_UNAUTHORIZED = _refusing(
    RefusedCall(
        "a valid bearer token is needed; set VIGORL_AUTH__TOKEN to this installation's token", reason="TOKEN_INVALID"
    )
)


async def _missing(request: object, servicer_context: ServicerContext) -> None:
    raise RemoteError("this version declares the method and does not serve it yet", reason="NOT_IMPLEMENTED")


async def _missing_stream(request: object, servicer_context: ServicerContext) -> AsyncGenerator[None]:
    await _missing(request, servicer_context)
    yield


async def watch_loop(metrics_every_s: float = 1.0) -> None:
    """Measure for ever how late the event loop is; a late loop means that something blocks it."""
    loop = asyncio.get_running_loop()
    gauge = CallMetrics.loop_lag()
    while True:
        due = loop.time() + metrics_every_s
        await asyncio.sleep(metrics_every_s)
        gauge.set(max(0.0, loop.time() - due))
