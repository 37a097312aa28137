"""Sends every request to Replicate, each with a lease, so that no window is exceeded. A lease allows one
request: a creation takes the lease of its admission, every other request takes one of the second window. The
lease is stamped when the request is sent and again when its answer arrives. The answer to a creation is not
stamped here: only the code that reads the response knows whether it is an answer, and a creation without an
answer may arrive at any time. `send` returns the answer of a success. It raises Refusal for an error status,
NotSent when nothing can have arrived, and Lost when that is unknown.

A creation is not sent unless its `may_send` allows it when its first byte is about to be written
(`connections.GuardedBody`). Between the choice of a connection and that moment, a busy loop lets tens of milliseconds
pass.
"""

import asyncio
import json
from collections.abc import AsyncIterable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import aiohttp
from yarl import URL

from concurrency import Lease
from network.proxies import Proxy
from providers.connections import GuardedBody, Lost, NotSent, Pool, TooLarge, inflater, reading

MAX_ANSWER = 128 * 1024 * 1024
"""The most bytes of an answer. A page of a hundred predictions, each with four inline images of 256 kB, is
smaller."""

MOST_VALUES = 500_000
"""The most values of a JSON document, counted by its commas and brackets. Each value takes time and up to a
hundred bytes of memory."""

MAX_REFUSAL = 256 * 1024
"""The most bytes of an error response's body. A longer one is not read."""


class Refusal(Exception):
    """Replicate answered with an error status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"Replicate answered {status}")
        self.status = status
        self.headers = headers
        self.body = body

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The error document, parsed once; empty when it is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    @property
    def is_replicates(self) -> bool:
        """Whether the body is Replicate's own error document, and not a page of something in between, such as
        a firewall."""
        return isinstance(self.document.get("detail"), str) or isinstance(self.document.get("title"), str)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to Replicate, with all its headers but those of the connection. A `body` that is not in memory
    is an iterable of its parts; then the headers have its length. `repr` shows neither, since the headers have the
    token. A request with a body in memory is sent only if `may_send` returns True just before its first byte."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | AsyncIterable[bytes] | None = field(default=None, repr=False)
    may_send: Callable[[], bool] | None = field(default=None, repr=False)

    @property
    def creates(self) -> bool:
        """Whether it creates a prediction or a training."""
        return self.method == "POST" and self.url.path.endswith(("/predictions", "/trainings"))


@dataclass(frozen=True, slots=True)
class Response:
    """A complete response. The names of its headers are case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections(Protocol):
    """What carries the requests of all accounts."""

    async def send(self, request: Request, *, most: int) -> Response:
        """Send a request once. Returns its response, decompressed, of at most `most` bytes. Raises NotSent, HeldBack,
        Lost or TooLarge. Has no timeout but that of connecting."""

    async def aclose(self) -> None:
        """Close every connection."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response with a status of success."""

    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The answer's JSON. Raises Lost if it is not JSON, and TooLarge if it has too many values to be
        read, or is nested too deeply. In all cases the outcome is unknown."""
        if sum(self.body.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
            raise TooLarge("the answer has too many values")
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise TooLarge("the answer is nested too deeply") from error
        except ValueError as error:
            raise Lost("the answer is not JSON") from error


async def send(
    connections: Connections,
    request: Request,
    lease: Lease,
    *,
    seconds: float,
    creates: bool = False,
    max_answer: int = MAX_ANSWER,
) -> Answer:
    """Send one request over `connections` and return its answer, of at most `max_answer` bytes.

    `seconds` is the timeout of the whole exchange. `creates` means that the lease is of an admission, and
    that the calling code marks it as answered or lost. Raises Refusal, NotSent, Lost or TooLarge.
    """
    if request.creates is not creates:
        raise RuntimeError(
            "a creation needs the lease of its admission, and all else one of the other window"
        )
    lease.sent()
    try:
        async with asyncio.timeout(seconds):
            response = await connections.send(request, most=max_answer)
    except TimeoutError as error:
        raise Lost("no answer in time") from error
    except NotSent:
        lease.not_sent()
        raise
    finally:
        if not creates:
            lease.answered()
    if response.status >= 300:
        raise Refusal(response.status, response.headers, response.body)
    return Answer(response.headers, response.body)


class HttpConnections(Connections):
    """A pool of connections, through `proxy` if that is set. Create and close it on the loop that uses it."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._pool = Pool(proxy)

    @property
    def are_closed(self) -> bool:
        return self._pool.is_closed

    async def send(self, request: Request, *, most: int) -> Response:
        body: GuardedBody | bytes | AsyncIterable[bytes] | None = request.body
        if request.may_send is not None and isinstance(body, bytes):
            body = GuardedBody(body, request.may_send)
        response = await self._pool.begin(request.method, request.url, request.headers, body)
        with reading():
            async with response:
                encoding = response.headers.get("Content-Encoding", "")
                content = await read_body(response.status, encoding, response.content.iter_any(), most)
                return Response(response.status, response.headers, content)

    async def aclose(self) -> None:
        await self._pool.aclose()


async def read_body(status: int, encoding: str, chunks: AsyncIterable[bytes], most: int) -> bytes:
    """The body of a response, decompressed, of at most `most` bytes. Of an error response, at most `MAX_REFUSAL`, and
    empty if it cannot be read: the status alone shows that the request was refused. Raises Lost or TooLarge."""
    if status < 300:
        return await _read(encoding, chunks, most)
    try:
        return await _read(encoding, chunks, MAX_REFUSAL)
    except (Lost, aiohttp.ClientError, ValueError):
        return b""


async def _read(encoding: str, chunks: AsyncIterable[bytes], most: int) -> bytes:
    inflate, body = inflater(encoding), bytearray()
    async for chunk in chunks:
        rest = chunk
        while rest:
            part, rest = inflate(rest, most + 1 - len(body))
            body += part
            if len(body) > most:
                raise TooLarge("the answer is too large")
    return bytes(body)
