"""The hosts that outputs are fetched from, and no other.

An output's URL comes from outside, and so does every redirect. So each of them is checked, and at most three redirects
are followed. A URL must be https at `replicate.delivery` or below it, or have the scheme, host and port of the
configured upstream. A delivery host must not resolve to an address on a private network. The check uses the addresses
that the connection is then made to, so a second look-up cannot change the result. The upstream may be anywhere, since
the operator chose it.

Where the operator has a proxy, an output goes through it. The proxy resolves the name of the delivery host, so there is
no address to check; the certificate still proves that the host is Replicate's. A redirect is checked as before.

Nothing secret is sent: no token, no cookie, nothing from `.netrc`. A compressed answer is refused.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver
from yarl import URL

from media.formats import PAGES
from network import public_http
from network.proxies import DIRECT, Proxies
from network.urls import origin

REDIRECTS: Final = 3

_HOST: Final = re.compile(r"(?:[a-z0-9_-]+\.)*replicate\.delivery")
_URL: Final = re.compile(r"[!-~]{1,8192}")
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_PASSING: Final = {404, 408, 425, 429}
"""Statuses that may pass, as all from 500 on may. 404 is among them: a new output may not have reached its host yet."""

_MISSING: Final = {204, 404, 410}


class OutputUnavailable(Exception):
    """The output cannot be had. The text completes the caller's sentence "it could not be kept: …". `missing` is true
    if there is no output at its address: nothing, or a web page."""

    def __init__(self, reason: str, *, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


class Lost(OutputUnavailable):
    """The output was not had this time. Another try may help."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer: `length` is the announced number of bytes, `chunks` the bytes as they come. `media_type` is
    what its host says that it is, in lower case."""

    length: int | None
    chunks: AsyncIterator[bytes]
    media_type: str = ""


class Hosts:
    """Fetches what Replicate delivers. `upstream` is its API's base URL; `stall` is the seconds without a byte after
    which a connection counts as lost; `proxies` may lead to any of the hosts. Use it on one loop."""

    def __init__(
        self,
        upstream: str,
        *,
        stall: float = 10.0,
        resolver: AbstractResolver | None = None,
        proxies: Proxies = DIRECT,
    ) -> None:
        self._upstream = origin(URL(upstream))
        self._stall = stall
        self._resolver = resolver
        self._proxies = proxies
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @asynccontextmanager
    async def get(self, url: str) -> AsyncIterator[Answer]:
        """The answer, while the block runs. Raises Lost and OutputUnavailable, at the start of the block and inside."""
        at = self._allowed(url)
        for _ in range(REDIRECTS + 1):
            proxy = self._proxies.for_url(str(at))
            through: dict[str, Any] = (
                {"proxy": str(proxy.url), "proxy_headers": proxy.headers} if proxy else {}
            )
            with _translated():
                async with self._session(at, proxy).get(at, allow_redirects=False, **through) as response:
                    if response.status in _REDIRECTS:
                        at = self._redirected(at, response.headers.get("Location", ""))
                        continue
                    _check(response)
                    yield Answer(response.content_length, response.content.iter_any(), response.content_type)
                    return
        raise OutputUnavailable(f"it was redirected more than {REDIRECTS} times")

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _allowed(self, url: str) -> URL:
        """The URL, parsed by the library that connects, so that the check and the connection read it alike."""
        try:
            parsed = URL(url, encoded=True) if _URL.fullmatch(url) else None
            host, port = (parsed.raw_host or "", parsed.port) if parsed else ("", None)
        except ValueError:
            parsed = None
        if parsed is None or parsed.raw_user is not None or parsed.raw_password is not None:
            raise OutputUnavailable("its URL is not one that outputs have")
        delivered = parsed.scheme == "https" and port == 443 and _HOST.fullmatch(host.lower())
        if not delivered and origin(parsed) != self._upstream:
            raise OutputUnavailable("its host is not one that outputs come from")
        return parsed

    def _redirected(self, at: URL, location: str) -> URL:
        try:
            to = str(at.join(URL(location, encoded=True)))
        except ValueError:
            to = ""
        return self._allowed(to)

    def _session(self, at: URL, proxy: httpx.Proxy | None) -> aiohttp.ClientSession:
        """Of two sessions, the one that resolves any name, or the one that connects to public addresses only."""
        exempt = proxy is not None or origin(at) == self._upstream
        if exempt not in self._sessions:
            resolver = (
                None
                if exempt
                else public_http.PublicOnlyResolver(self._resolver or aiohttp.ThreadedResolver())
            )
            self._sessions[exempt] = public_http.session(
                resolver,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._stall, sock_read=self._stall),
            )
        return self._sessions[exempt]


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        passes = response.status in _PASSING or response.status >= 500
        missing = response.status in _MISSING
        raise (Lost if passes else OutputUnavailable)(f"its host answered {response.status}", missing=missing)
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        reason = "it came compressed, which was not asked for"
        raise OutputUnavailable(reason, missing=response.content_type in PAGES)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ServerTimeoutError as error:
        raise Lost("the download stalled") from error
    except aiohttp.ClientError as error:
        raise (OutputUnavailable if public_http.is_private(error) else Lost)(
            public_http.reason(error)
        ) from error
