"""Requests and answers without an HTTP server."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from simulator.gemini.course import Course
from simulator.gemini.refusals import Refused

JSON, EVENTS = "application/json; charset=UTF-8", "text/event-stream"
HEADERS = {
    "Vary": "Origin, X-Origin, Referer",
    "Server": "scaffolding on HTTPServer2",
    "X-XSS-Protection": "0",
    "X-Frame-Options": "SAMEORIGIN",
    "X-Content-Type-Options": "nosniff",
    "X-Gemini-Service-Tier": "standard",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRequest:
    """A request: its method, its path without the query, the query, the headers with lower-case names, the body."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


class Parts:
    """The parts of a streamed answer, at their times. A reader that stops before their end must close them."""

    def __init__(self, course: Course, *, as_events: bool) -> None:
        self._course = course
        self._parts = _encoded(course.stream(), as_events=as_events)
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Wait for the first part."""
        self._first = await anext(self._parts, b"")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            yield self._first
        async for part in self._parts:
            yield part

    async def aclose(self) -> None:
        """End the call, if it has not ended."""
        await self._parts.aclose()
        self._course.leave()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer: a body, or the parts of a stream. `head` is when the head of a stream is sent, in seconds, if that is
    before its first part."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: Parts | None = None
    head: float | None = None


def of_json(value: Any) -> Reply:
    """A whole answer."""
    return Reply(headers=HEADERS | {"Content-Type": JSON}, body=json.dumps(value, indent=2).encode())


def of_refusal(request: ApiRequest, refused: Refused) -> Reply:
    """An error. To a stream it has the content type of one, though it is JSON."""
    kind = EVENTS if request.query.get("alt") == "sse" else JSON
    body = json.dumps(refused.body, indent=2).encode()
    return Reply(status=refused.code, headers=HEADERS | {"Content-Type": kind}, body=body)


async def _encoded(chunks: AsyncGenerator[Any, None], *, as_events: bool) -> AsyncGenerator[bytes, None]:
    """The chunks as events, or as the parts of a JSON list."""
    separator = b"["
    async with aclosing(chunks):
        async for chunk in chunks:
            text = chunk if isinstance(chunk, str) else json.dumps(chunk, ensure_ascii=False)
            if as_events:
                yield b"data: " + text.encode(errors="replace") + b"\r\n\r\n"
            else:
                yield separator + text.encode(errors="replace")
                separator = b",\r\n"
    if not as_events:
        yield b"]"
