"""Sends every request to Replicate, each with a lease, so that no window is exceeded. A lease allows one
request: a creation takes the lease of its admission, every other request takes one of the second window. The
lease is stamped when the request is sent and again when its answer arrives. The answer to a creation is not
stamped here: only the code that reads the response knows whether it is an answer, and a creation without an
answer may arrive at any time. `send` returns the answer of a success. It raises Refusal for an error status,
NotSent when nothing can have arrived, and Lost when that is unknown.

Underneath is aiohttp (by `httpx-aiohttp`): httpx's own pool slows down beyond about 30 requests in flight.
"""

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from concurrency import Lease

MAX_ANSWER = 128 * 1024 * 1024
"""The most bytes of an answer. A page of a hundred predictions, each with four inline images of 256 kB, is
smaller."""

MOST_VALUES = 500_000
"""The most values of a JSON document, counted by its commas and brackets. Each value takes time and up to a
hundred bytes of memory."""

MAX_REFUSAL = 256 * 1024
"""The most bytes of an error response's body. A longer one is not read."""

_UNCONNECTED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS

CONNECT_TIMEOUT = 5.0
"""Seconds. Shorter than every request's own timeout, so that a failure to connect is recognized as one."""


class NotSent(Exception):
    """The request did not arrive: there was no connection."""


class Lost(Exception):
    """The request was sent, and no complete answer came. It may have arrived."""


class TooLarge(Lost):
    """The answer is too large to be read."""


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
class Answer:
    """A response with a status of success."""

    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The answer's JSON. Raises Lost if it is not JSON, and TooLarge if it has too many values to be
        read. In both cases the outcome is unknown."""
        if sum(self.body.count(each) for each in (b",", b"[", b"{")) > MOST_VALUES:
            raise TooLarge("the answer has too many values")
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Lost("the answer is not JSON") from error


async def send(
    connections: httpx.AsyncBaseTransport,
    request: httpx.Request,
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
    if _creates(request) is not creates:
        raise RuntimeError(
            "a creation needs the lease of its admission, and all else one of the other window"
        )
    # httpx would time each read and write; here one timeout bounds the whole exchange.
    request.extensions["timeout"] = {
        "connect": CONNECT_TIMEOUT,
        "pool": CONNECT_TIMEOUT,
        "read": None,
        "write": None,
    }
    lease.sent()
    try:
        async with asyncio.timeout(seconds):
            response = await connections.handle_async_request(request)
            try:
                body = await _body(response, max_answer)
            finally:
                await response.aclose()
    except TimeoutError as error:
        raise Lost("no answer in time") from error
    except httpx.HTTPError as error:
        if not _never_connected(error):
            raise Lost(_kind(error)) from error
        lease.not_sent()
        raise NotSent(_kind(error)) from error
    except (aiohttp.ClientError, ValueError) as error:  # errors that httpx-aiohttp does not translate
        raise Lost(_kind(error)) from error
    finally:
        if not creates:
            lease.answered()
    if response.status_code >= 300:
        raise Refusal(response.status_code, response.headers, body)
    return Answer(response.headers, body)


def open_connections(proxy: httpx.Proxy | None = None) -> httpx.AsyncBaseTransport:
    """The connection pool of every account's client, through `proxy` if that is set. Create and close it on
    the loop that uses it."""

    def session() -> aiohttp.ClientSession:
        made = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=transport.ssl_context),
            cookie_jar=aiohttp.DummyCookieJar(),  # accounts must not share cookies
        )
        # By default aiohttp repeats a GET on a connection that turns out closed, without counting it.
        made._retry_connection = False  # noqa: SLF001
        return made

    transport = AiohttpTransport(client=session, proxy=proxy)
    return transport


def _creates(request: httpx.Request) -> bool:
    return request.method == "POST" and request.url.path.endswith("/predictions")


def _never_connected(error: httpx.HTTPError) -> bool:
    """Whether the connection was never made, by aiohttp's own error: httpx-aiohttp calls a lost connection a
    ConnectTimeout. A proxy that refuses the connection has passed nothing on."""
    return isinstance(error.__cause__, _UNCONNECTED)


def _kind(error: Exception) -> str:
    """The kind of error, for a log: its text may quote the response. By aiohttp's error, as in
    `_never_connected`."""
    cause = error.__cause__ or error
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {cause.status}"
    return f"the exchange failed ({type(cause).__name__})"


async def _body(response: httpx.Response, most: int) -> bytes:
    if response.status_code < 300:
        return await _read(response, most)
    try:
        return await _read(response, MAX_REFUSAL)
    except (Lost, httpx.HTTPError, aiohttp.ClientError, ValueError):
        return b""  # the status alone shows that it was refused


async def _read(response: httpx.Response, most: int) -> bytes:
    inflate, body = _inflater(response), bytearray()
    async for chunk in response.aiter_bytes():
        rest = chunk
        while rest:
            part, rest = inflate(rest, most + 1 - len(body))
            body += part
            if len(body) > most:
                raise TooLarge("the answer is too large")
    return bytes(body)


def _inflater(response: httpx.Response) -> Callable[[bytes, int], tuple[bytes, bytes]]:
    """A function that decompresses a chunk to at most this many bytes, and returns them and the rest of the
    chunk. It replaces httpx's own decoder, which inflates each chunk whole, however large the result is."""
    encoding = "" if response.is_stream_consumed else response.headers.pop("content-encoding", "")
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return lambda chunk, _: (chunk, b"")
    if encoding not in {"gzip", "deflate"}:
        raise Lost("the answer is compressed in a way that was not asked for")
    inflater = zlib.decompressobj(_GZIP_OR_ZLIB)

    def inflate(chunk: bytes, most: int) -> tuple[bytes, bytes]:
        try:
            return inflater.decompress(chunk, most), inflater.unconsumed_tail
        except zlib.error as error:
            raise Lost("the answer cannot be decompressed") from error

    return inflate
