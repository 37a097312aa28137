"""The shared parts of the HTTP connections to all providers: errors that show whether a request may have arrived, a
pool of aiohttp's connections, and a body that is sent only if it still may be.

Requests go over aiohttp directly: httpx takes twice the time for a request, and its own pool slows down beyond about
30 requests in flight.
"""

import zlib
from collections.abc import AsyncIterable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from network.proxies import Proxy
from network.tls import client_context

CONNECT_TIMEOUT: Final = 5.0
"""Seconds. Shorter than the timeouts of all requests, so that a failure to connect is recognized as one."""

_UNCONNECTED: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
"""The errors of aiohttp that are raised before anything is sent."""

_PIECE: Final = 256 * 1024
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_GZIP_BEGINS: Final = 0x1F


class NotSent(Exception):
    """The request did not arrive: there was no connection."""


class HeldBack(NotSent):
    """The request was not sent, since `may_send` did not allow it."""

    def __init__(self) -> None:
        super().__init__("this process may not send now")


class Lost(Exception):
    """The request was sent, and no complete answer came. It may have arrived."""


class TooLarge(Lost):
    """The answer is too large to be read."""


def always() -> bool:
    return True


def no_action() -> None:
    pass


class GuardedBody(aiohttp.BytesPayload):
    """A body that calls `may_send` when aiohttp writes it, and then `on_send`. aiohttp writes the headers together with
    the first piece of the body. `failure` is the reason if they were not written."""

    def __init__(
        self, body: bytes, may_send: Callable[[], bool] = always, on_send: Callable[[], object] = no_action
    ) -> None:
        # Not BytesPayload's own, which warns of a large body. This one is written in pieces.
        aiohttp.Payload.__init__(self, body, content_type="application/octet-stream")
        self._size = len(body)
        self._may_send = may_send
        self._on_send = on_send
        self.failure: NotSent | None = None

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        body = memoryview(self._value)[:content_length]
        self.failure = self._hindrance(writer)
        if self.failure is not None:
            raise self.failure
        self._on_send()
        await writer.write(body[:_PIECE])
        for start in range(_PIECE, len(body), _PIECE):
            await writer.write(body[start : start + _PIECE])

    def _hindrance(self, writer: AbstractStreamWriter) -> NotSent | None:
        connection = getattr(writer, "transport", None)
        if connection is None or connection.is_closing():  # the server has closed it since it was chosen
            return NotSent("the connection was closed")
        return None if self._may_send() else HeldBack()


class Pool:
    """Connections without cookies, redirects, decompression, and repeated requests, through `proxy` if that is set.
    Create and close it on the loop that uses it."""

    def __init__(self, proxy: Proxy | None = None) -> None:
        self._proxy: dict[str, Any] = proxy.arguments if proxy else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=client_context()),
            cookie_jar=aiohttp.DummyCookieJar(),  # accounts must not share cookies
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT, sock_connect=CONNECT_TIMEOUT),
        )
        # By default aiohttp repeats a GET on a connection that turns out closed, without counting it.
        self._session._retry_connection = False  # noqa: SLF001

    @property
    def is_closed(self) -> bool:
        return self._session.closed

    async def begin(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        body: GuardedBody | bytes | AsyncIterable[bytes] | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request once, and wait for the head of its response, which the calling code closes. Raises NotSent,
        HeldBack or Lost."""
        try:
            return await self._session.request(
                method, url, headers=headers, data=body, allow_redirects=False, **self._proxy
            )
        except _UNCONNECTED as error:
            raise NotSent(_kind_of(error)) from error
        except (aiohttp.ClientError, ValueError) as error:
            if isinstance(body, GuardedBody) and body.failure is not None:
                raise body.failure from None
            raise Lost(_kind_of(error)) from error

    async def aclose(self) -> None:
        """Close every connection."""
        await self._session.close()


@contextmanager
def reading() -> Iterator[None]:
    """Raises Lost for the errors of aiohttp while the body of a response is read."""
    try:
        yield
    except (aiohttp.ClientError, ValueError) as error:
        raise Lost(_kind_of(error)) from error


def _kind_of(error: Exception) -> str:
    """The kind of error, for a log: its text may quote the response."""
    if isinstance(error, aiohttp.ClientHttpProxyError):  # a proxy that refuses has not passed the request on
        return f"the proxy answered {error.status}"
    return f"the exchange failed ({type(error).__name__})"


def inflater(encoding: str) -> Callable[[bytes, int], tuple[bytes, bytes]]:
    """A function that decompresses a chunk to at most this many bytes, and returns them and the rest of the
    chunk. It replaces aiohttp's own decoder, which inflates each chunk whole, however large the result is."""
    encoding = encoding.strip().lower()
    if encoding in {"", "identity"}:
        return lambda chunk, _: (chunk, b"")
    if encoding not in {"gzip", "deflate"}:
        raise Lost("the answer is compressed in a way that was not requested")
    inflater = None

    def inflate(chunk: bytes, most: int) -> tuple[bytes, bytes]:
        nonlocal inflater
        inflater = inflater or zlib.decompressobj(_format(encoding, chunk[0]))
        try:
            return inflater.decompress(chunk, most), inflater.unconsumed_tail
        except zlib.error as error:
            raise Lost("the answer cannot be decompressed") from error

    return inflate


def _format(encoding: str, first: int) -> int:
    """The `wbits` of zlib for a body that begins with this byte. Some servers send "deflate" without the header of
    zlib. The first byte of that header ends in 8."""
    is_raw = encoding == "deflate" and first & 15 != 8 and first != _GZIP_BEGINS
    return -zlib.MAX_WBITS if is_raw else _GZIP_OR_ZLIB
