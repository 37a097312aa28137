"""Sends requests to Google over aiohttp, and reads their answers as they come. No request is repeated or redirected,
and `x-goog-api-key` is its only credential: Google refuses a request with two.

`Connections.open` raises NotSent when the request cannot have arrived, HeldBack when `may_send` did not allow it, and
Lost when the request may have arrived.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import aiohttp
from yarl import URL

from network.proxies import Proxy
from providers.connections import GuardedBody, Pool, TooLarge, always, inflater, no_action, reading

_MOST_AT_ONCE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """A request to Google. `repr` shows neither the headers, which have the key, nor the body. When its first byte is
    about to be written, `may_send` is called, and then `on_send`."""

    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    may_send: Callable[[], bool] = field(default=always, repr=False)
    on_send: Callable[[], object] = field(default=no_action, repr=False)


class Incoming(Protocol):
    """An answer, once its head has come."""

    @property
    def status(self) -> int: ...

    async def read(self) -> bytes:
        """The next bytes of the body, decompressed. Empty at its end. Raises Lost."""


class Connections(Protocol):
    """The connections for the requests of all accounts."""

    def open(self, request: Request) -> AbstractAsyncContextManager[Incoming]:
        """Send a request once, and wait for the head of its answer. The connection is closed when the context is left
        before the end of the body. Has no timeout but that of connecting."""

    async def aclose(self) -> None:
        """Close every connection."""


async def read_all(incoming: Incoming, most: int) -> bytes:
    """The whole body, of at most `most` bytes. Raises Lost or TooLarge."""
    body = bytearray()
    while part := await incoming.read():
        body += part
        if len(body) > most:
            raise TooLarge("the answer is too large")
    return bytes(body)


class HttpConnections(Connections):
    """A pool of connections, through `proxy` if that is set. Create and close it on the loop that uses it."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._pool = Pool(proxy)

    @asynccontextmanager
    async def open(self, request: Request) -> AsyncIterator[Incoming]:
        body = GuardedBody(request.body, request.may_send, request.on_send) if request.body else None
        response = await self._pool.begin(request.method, request.url, request.headers, body)
        try:
            yield _Response(response)
        finally:
            response.close()

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Response(Incoming):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._inflate = inflater(response.headers.get("Content-Encoding", ""))
        self._rest = b""

    @property
    def status(self) -> int:
        return self._response.status

    async def read(self) -> bytes:
        with reading():
            while rest := self._rest or await self._response.content.readany():
                part, self._rest = self._inflate(rest, _MOST_AT_ONCE)
                if part:
                    return part
        return b""
