"""The one door by which every byte leaves for Replicate, and where both budgets are kept.

It is kept here because the `replicate` client wraps whatever transport it is given in one that retries GETs
by itself (on 429, 503 and 504, up to ten times, obeying any `Retry-After`): counted anywhere above, those
would not be counted. A creation needs the lease of its admission; everything else takes a place of its own
in the second window.

It also hands out what the client would throw away. The client keeps three fields of an error and no header,
trips over a JSON array, and refuses statuses it does not know (`aborted`). So an answer is kept whole in the
`Exchange` of its call, and an error status is raised from here as a `Refusal`, below the retries.

Underneath is aiohttp (by `httpx-aiohttp`): httpx's own pool slows down beyond about 30 requests in flight.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from concurrency import Gate, Lease

MAX_ANSWER = 128 * 1024 * 1024
"""Bytes. A page of a hundred predictions, each with four inline images of 256 kB, is below."""


CONNECT_TIMEOUT = 5.0
"""Seconds. Below every exchange's own timeout, so that not having connected is known as such."""


class NotSent(Exception):
    """Certainly nothing arrived: there was no connection."""


class Lost(Exception):
    """It was sent, and no whole answer came. Whether it arrived is not known."""


class Refusal(Exception):
    """Replicate answered with an error status."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"Replicate answered {status}")
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Mapping[str, Any]:
        """The error document; empty when it is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


@dataclass(slots=True)
class Exchange:
    """One call: what to send with it and, afterwards, what came back. `timeout` in seconds, for all of it."""

    timeout: float
    lease: Lease | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Whatever this task sends inside the block belongs to this exchange."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def json(self) -> Any:
        """The answer's JSON. Raises Lost when it is none: then nobody knows what happened."""
        try:
            return json.loads(self.body or b"")
        except ValueError as error:
            raise Lost("the answer is not JSON") from error


_current: ContextVar[Exchange] = ContextVar("exchange")


class BudgetedTransport(httpx.AsyncBaseTransport):
    """Sends by `inner` what the budgets allow. `others` is the window for all that creates nothing."""

    def __init__(self, inner: httpx.AsyncBaseTransport, *, others: Gate, account: str) -> None:
        self._inner = inner
        self._others = others
        self._account = account

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _current.get()
        request.headers.update(exchange.headers)
        # The client sends creations with no timeout at all; ours bounds the whole exchange.
        request.extensions["timeout"] = {
            "connect": CONNECT_TIMEOUT,
            "pool": CONNECT_TIMEOUT,
            "read": None,
            "write": None,
        }
        if _creates(request):
            if exchange.lease is None:
                raise RuntimeError("a creation needs the lease of its admission")
            return await self._send(request, exchange, exchange.lease)
        # Looks stand behind whatever else there is, as a batch does: a cancel must not wait for them.
        looks = "looks" if request.method == "GET" else None
        with await self._others.acquire(self._account, batch=looks) as lease:
            return await self._send(request, exchange, lease)

    async def aclose(self) -> None:
        """Nothing: the connections are shared, and their owner closes them."""

    async def _send(self, request: httpx.Request, exchange: Exchange, lease: Lease) -> httpx.Response:
        lease.sent()
        try:
            async with asyncio.timeout(exchange.timeout):
                response = await self._inner.handle_async_request(request)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise Lost("no answer in time") from error
        except httpx.HTTPError as error:
            if not _never_connected(error):
                raise Lost(str(error)) from error
            lease.not_sent()
            raise NotSent(str(error)) from error
        except aiohttp.ClientError as error:  # what httpx-aiohttp does not translate
            raise Lost(str(error)) from error
        finally:
            lease.answered()
        if response.status_code >= 300:
            raise Refusal(response.status_code, response.headers, body)
        exchange.answer_headers, exchange.body = response.headers, body
        return httpx.Response(
            response.status_code,
            headers={"content-type": response.headers.get("content-type", "")},
            content=body,
            request=request,
        )


def open_connections() -> httpx.AsyncBaseTransport:
    """The pool under every account's client. Make it on the loop that uses it, and close it there."""

    def session() -> aiohttp.ClientSession:
        made = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=transport.ssl_context),
            cookie_jar=aiohttp.DummyCookieJar(),  # one account's cookies are no other's
        )
        # aiohttp would quietly repeat a GET on a connection that turned out closed: uncounted.
        made._retry_connection = False  # noqa: SLF001
        return made

    transport = AiohttpTransport(client=session)
    return transport


def _creates(request: httpx.Request) -> bool:
    return request.method == "POST" and request.url.path.endswith("/predictions")


def _never_connected(error: httpx.HTTPError) -> bool:
    """httpx-aiohttp calls a lost connection a ConnectTimeout, so what aiohttp itself said is asked."""
    return isinstance(error.__cause__, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise httpx.ReadError("the answer is too large")
    return bytes(body)
