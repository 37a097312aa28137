"""The one door by which every byte leaves for Replicate, and where both budgets are kept.

Nothing passes without a lease: a creation by that of its admission, everything else by one of the second
window. A lease is good for one request. This is checked here because the `replicate` client wraps whatever
transport it is given in one that retries GETs by itself (on 429, 503 and 504, up to ten times, obeying any
`Retry-After`): from anywhere above, those could not be counted. As it is, every answer is raised, so none happens.

The client is asked only to put a request together. What comes back does not pass through it: it keeps three
fields of an error and no header, trips over a JSON array, refuses statuses it does not know (`aborted`), and
takes most of a millisecond to read a prediction. So an answer is kept whole in the `Exchange` of its call,
and raised from here as `Answered`, or as a `Refusal` if its status is an error's.

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

from concurrency import Lease

MAX_ANSWER = 128 * 1024 * 1024
"""Bytes. A page of a hundred predictions, each with four inline images of 256 kB, is below."""


CONNECT_TIMEOUT = 5.0
"""Seconds. Below every exchange's own timeout, so that not having connected is known as such."""


class NotSent(Exception):
    """Certainly nothing arrived: there was no connection."""


class Lost(Exception):
    """It was sent, and no whole answer came. Whether it arrived is not known."""


class TooLarge(Lost):
    """It was answered at more length than can be read."""


class Answered(Exception):
    """The answer came; it is in the exchange."""


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
        except (ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}


@dataclass(slots=True)
class Exchange:
    """One call: what to send with it and, afterwards, what came back. `timeout` in seconds, for all of it;
    `max_answer` in bytes. `creates` says which of the two windows the lease is of."""

    lease: Lease
    timeout: float
    creates: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    max_answer: int = MAX_ANSWER
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

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
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Lost("the answer is not JSON") from error


_current: ContextVar[Exchange] = ContextVar("exchange")


class BudgetedTransport(httpx.AsyncBaseTransport):
    """Sends by `inner` what has a lease. Raises Answered, Refusal, NotSent or Lost, and never returns."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        exchange = _current.get()
        if _creates(request) is not exchange.creates:
            raise RuntimeError(
                "a creation needs the lease of its admission, and all else one of the other window"
            )
        request.headers.update(exchange.headers)
        # The client sends creations with no timeout at all; ours bounds the whole exchange.
        request.extensions["timeout"] = {
            "connect": CONNECT_TIMEOUT,
            "pool": CONNECT_TIMEOUT,
            "read": None,
            "write": None,
        }
        exchange.lease.sent()
        try:
            async with asyncio.timeout(exchange.timeout):
                response = await self._inner.handle_async_request(request)
                try:
                    exchange.body = await _read(response, exchange.max_answer)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise Lost("no answer in time") from error
        except httpx.HTTPError as error:
            if not _never_connected(error):
                raise Lost(str(error)) from error
            exchange.lease.not_sent()
            raise NotSent(str(error)) from error
        except aiohttp.ClientError as error:  # what httpx-aiohttp does not translate
            raise Lost(str(error)) from error
        finally:
            exchange.lease.answered()
        if response.status_code >= 300:
            raise Refusal(response.status_code, response.headers, exchange.body)
        exchange.answer_headers = response.headers
        raise Answered

    async def aclose(self) -> None:
        """Nothing: the connections are shared, and their owner closes them."""


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


async def _read(response: httpx.Response, most: int) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > most:
            raise TooLarge("the answer is too large")
    return bytes(body)
