"""A small OpenAI-compatible endpoint on loopback that answers what a test tells it, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer: a body as JSON, or the events of a stream; `broken` closes before the body is whole."""

    body: Any = None
    status: int = 200
    events: tuple[Any, ...] = ()
    broken: bool = False
    delay_s: float = 0.0
    content_type: str = "application/json"


@dataclass(slots=True)
class Endpoint:
    """`answer` gives the reply to each request's JSON body."""

    answer: Callable[[dict[str, Any]], Reply]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    dropped: int = 0
    """Requests whose client left before the answer."""


def completion(text: str | None, finish_reason: str = "stop", **choice: Any) -> Reply:
    message = {"role": "assistant", "content": text}
    return Reply({"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}]})


def streamed(pieces: Iterable[str], finish_reason: str | None = "stop", **choice: Any) -> Reply:
    events = [{"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]} for piece in pieces]
    if finish_reason:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason, **choice}]})
        events.append({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    return Reply(events=tuple(events), broken=finish_reason is None)


def refusal(status: int, message: str = "no", **error: Any) -> Reply:
    return Reply({"error": {"message": message, **error}}, status)


@asynccontextmanager
async def serving(answer: Callable[[dict[str, Any]], Reply]) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            endpoint.requests.append(body)
            endpoint.keys.append(headers.get("authorization", ""))
            endpoint.in_flight += 1
            endpoint.most_in_flight = max(endpoint.most_in_flight, endpoint.in_flight)
            try:
                await _write(reader, writer, endpoint)
            finally:
                endpoint.in_flight -= 1
        except ConnectionError:
            endpoint.dropped += 1
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield endpoint


async def _write(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: Endpoint) -> None:
    reply = endpoint.answer(endpoint.requests[-1])
    if reply.delay_s:
        try:
            # Nothing more is sent by a client that waits, so whatever is read is the end of its connection.
            await asyncio.wait_for(reader.read(1), reply.delay_s)
        except TimeoutError:
            pass
        else:
            raise ConnectionError
    body = json.dumps(reply.body) if not isinstance(reply.body, str) else reply.body
    if reply.events:
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in reply.events)
        body += "" if reply.broken else "data: [DONE]\n\n"
    data = body.encode()
    kind = "text/event-stream" if reply.events else reply.content_type
    head = f"HTTP/1.1 {reply.status} {REASONS.get(reply.status, 'Other')}\r\nContent-Type: {kind}\r\n"
    length = len(data) + (100 if reply.broken else 0)
    writer.write(f"{head}Content-Length: {length}\r\nConnection: close\r\n\r\n".encode() + data)
    await writer.drain()
