"""HTTP to the hosts of outputs, and to no others.

The URL of an output and each redirect are checked, and at most three redirects are followed. A URL must be https at
`replicate.delivery` or a subdomain, or have the scheme, host and port of the configured upstream. A delivery host must
not resolve to a private address (`network/public_http.py`); the upstream may, since the operator chose it.

If the operator has a proxy, it resolves the name of the delivery host, so no address is checked here. The certificate
still proves that the host is Replicate's.

Weights of trainings may also come from `api.replicate.com`, and from any public host, without the proxy. A token is
only sent to Replicate's hosts, and to no other host than the first one.

Requests carry no other credentials. A compressed response is refused.
"""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from media.formats import PAGES
from network import public_http
from network.proxies import DIRECT, Proxies, Proxy
from network.redirects import MOVED, REDIRECTS
from network.urls import origin

_HOST: Final = re.compile(r"(?:[a-z0-9_-]+\.)*replicate\.delivery")
_API: Final = "api.replicate.com"
_URL: Final = re.compile(r"[!-~]{1,8192}")
_TEMPORARY: Final = {404, 408, 425, 429}
"""Statuses of temporary failures, as are all from 500 on. With 404, a new output may not have reached its host yet."""

_MISSING: Final = {204, 404, 410}


class OutputUnavailable(Exception):
    """The output cannot be downloaded or stored. The message completes the caller's sentence "It could not be kept: …".
    `missing` is true if its URL has no output: no content, or a web page. `status` is that of the host's answer, if it
    is the reason."""

    def __init__(self, reason: str, *, missing: bool = False, status: int | None = None) -> None:
        super().__init__(reason)
        self.missing = missing
        self.status = status


class TemporarilyUnavailable(OutputUnavailable):
    """A retry may succeed."""


@dataclass(frozen=True, slots=True)
class OutputResponse:
    """A successful response. `length` is its declared number of bytes, and `media_type` its declared type in lower
    case."""

    length: int | None
    chunks: AsyncIterator[bytes]
    media_type: str = ""


class OutputHosts:
    """Requests outputs. `upstream` is the base URL of Replicate's API. `stall` is the timeout for connecting and for
    each read, in seconds. `any_public` also allows `api.replicate.com` and all public hosts, by https. Use it on one
    loop."""

    def __init__(
        self,
        upstream: str,
        *,
        stall: float = 10.0,
        any_public: bool = False,
        resolver: AbstractResolver | None = None,
        proxies: Proxies = DIRECT,
    ) -> None:
        self._upstream = origin(URL(upstream))
        self._stall = stall
        self._any_public = any_public
        self._resolver = resolver
        self._proxies = proxies
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    @asynccontextmanager
    async def get(self, url: str, *, token: str | None = None) -> AsyncIterator[OutputResponse]:
        """The response, open during the block. Raises OutputUnavailable, on entering the block and inside it.

        `token` is sent if the URL has a host of Replicate, until a redirect leaves that host."""
        target = first = self._checked(url)
        headers = self.credentials(first, token)
        for _ in range(REDIRECTS + 1):
            if origin(target) != origin(first):
                headers = {}
            proxy = self._proxies.for_url(str(target)) if self._is_replicate(target) else None
            options = {"headers": headers, **(proxy.arguments if proxy else {})}
            with _translated():
                async with self._session(target, proxy).get(
                    target, allow_redirects=False, **options
                ) as response:
                    if response.status in MOVED:
                        target = self._redirected(target, response.headers.get("Location", ""))
                        continue
                    _check(response)
                    yield OutputResponse(
                        response.content_length, response.content.iter_any(), response.content_type
                    )
                    return
        raise OutputUnavailable(f"it was redirected more than {REDIRECTS} times")

    def credentials(self, url: URL, token: str | None) -> dict[str, str]:
        """The headers with which the token goes to this URL: none if its host is not Replicate's."""
        return {"Authorization": f"Bearer {token}"} if token and self._is_replicate(url) else {}

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _checked(self, url: str) -> URL:
        """The URL, parsed by the library that connects, so that the check and the connection read it alike."""
        try:
            parsed = URL(url, encoded=True) if _URL.fullmatch(url) else None
            is_replicate = parsed is not None and self._is_replicate(parsed)  # reading the port checks it
        except ValueError:
            parsed = None
        if parsed is None or parsed.raw_user is not None or parsed.raw_password is not None:
            raise OutputUnavailable("its URL is not one that outputs have")
        if is_replicate:
            return parsed
        if not self._any_public:
            raise OutputUnavailable("its host is not one that outputs come from")
        try:
            return public_http.parse_url(url, loopback=False)
        except ValueError as error:
            raise OutputUnavailable(f"its URL {error}") from error

    def _is_replicate(self, url: URL) -> bool:
        """Whether the URL has a host of Replicate that outputs come from."""
        host = (url.raw_host or "").lower()
        is_known = bool(_HOST.fullmatch(host)) or (self._any_public and host == _API)
        return origin(url) == self._upstream or (url.scheme == "https" and url.port == 443 and is_known)

    def _redirected(self, source: URL, location: str) -> URL:
        try:
            to = str(source.join(URL(location, encoded=True)))
        except ValueError:
            to = ""
        return self._checked(to)

    def _session(self, target: URL, proxy: Proxy | None) -> aiohttp.ClientSession:
        """One of two sessions: for any address (the proxy, the upstream), or for public addresses only."""
        exempt = proxy is not None or origin(target) == self._upstream
        if exempt not in self._sessions:
            resolver = (
                None
                if exempt
                else public_http.PublicOnlyResolver(self._resolver or aiohttp.ThreadedResolver())
            )
            self._sessions[exempt] = public_http.client_session(
                resolver,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._stall, sock_read=self._stall),
            )
        return self._sessions[exempt]


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        is_temporary = response.status in _TEMPORARY or response.status >= 500
        missing = response.status in _MISSING
        raise (TemporarilyUnavailable if is_temporary else OutputUnavailable)(
            f"its host answered {response.status}", missing=missing, status=response.status
        )
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        reason = "it came compressed, which was not asked for"
        raise OutputUnavailable(reason, missing=response.content_type in PAGES)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except aiohttp.ServerTimeoutError as error:
        raise TemporarilyUnavailable("the download stalled") from error
    except aiohttp.ClientError as error:
        raise (OutputUnavailable if public_http.is_private_address_error(error) else TemporarilyUnavailable)(
            public_http.describe_error(error)
        ) from error
