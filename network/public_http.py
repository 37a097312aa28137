"""HTTP to hosts that a caller or an upstream names: public ones, and those that the operator allows. Nothing of
ours goes along.

A URL is checked when it is given, and again whenever it is used. What its name resolves to is checked of the very
addresses that a connection is then made to, so that no second look-up can answer otherwise. No token, no cookie,
nothing from `.netrc` is sent, and no proxy of the environment is used; certificates are checked. Redirects are the
caller's to follow, each as a new URL.
"""

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from network.addresses import is_public_address, public_host
from network.host_rules import NO_HOSTS, HostRules

LONGEST_URL: Final = 2048

_URL: Final = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_HEADERS: Final = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": "replicate-concurrent-generation",
}


def check_url(url: str, *, loopback: bool, own: HostRules = NO_HOSTS) -> str:
    """The URL, if it may be called. Raises ValueError with what it must be instead, as in "must be an https URL".

    `loopback` allows this very machine, too, by its names and addresses, and that without TLS. `own` are the operator's
    hosts, which are allowed likewise. With a network among them, a name is allowed until `PublicOnlyResolver` resolves
    it.
    """
    target(url, loopback=loopback, own=own)
    return url


def target(url: str, *, loopback: bool, own: HostRules = NO_HOSTS) -> URL:
    """The URL as what connects reads it; otherwise as `check_url`."""
    if len(url) > LONGEST_URL:
        raise ValueError(f"must be at most {LONGEST_URL} characters")
    if not _URL.fullmatch(url):
        raise ValueError("must be an https URL")
    try:
        parts, parsed = urlsplit(url), URL(url, encoded=True)
        host, port = (parsed.raw_host or "").lower(), parsed.port or 0  # reading the port checks it
    except ValueError:
        raise ValueError("must name a public host") from None
    if parts.username is not None:
        raise ValueError("must not hold a user name or password")
    # Where two readers differ, neither is believed.
    is_allowed = port != 0 and host == parts.hostname and own.may_match(host, port)
    is_allowed |= port != 0 and loopback and _is_loopback(host)
    if parsed.scheme != "https" and not is_allowed:
        raise ValueError("must be an https URL")
    if not is_allowed and (not host or host != public_host(url)):
        raise ValueError("must name a public host")
    return parsed


class PrivateAddress(OSError):
    """A name resolves to an address that is not out in the open."""


class NeedsTLS(PrivateAddress):
    """Without TLS, a name resolves to no address that the operator allows."""


class PublicOnlyResolver(AbstractResolver):
    """What another resolver says, if all of it is out in the open; else PrivateAddress.

    `loopback` lets the names of this very machine be this machine, and no other name. `own` are the operator's hosts:
    what a name on the list resolves to is allowed, and what any name resolves to in a network on it. Where some
    addresses are allowed so, the others are left out. Without `tls` no others are allowed: else NeedsTLS.
    """

    def __init__(
        self,
        inner: AbstractResolver,
        *,
        loopback: bool = False,
        own: HostRules = NO_HOSTS,
        tls: bool = True,
    ) -> None:
        self._inner = inner
        self._loopback = loopback
        self._own = own
        self._tls = tls

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if allowed := [each for each in found if self._is_allowed(host, each["host"], port)]:
            return allowed
        if not self._tls:
            raise NeedsTLS("an address that is not allowed without TLS")
        if not all(is_public_address(each["host"]) for each in found):
            raise PrivateAddress("a private address")
        return found

    async def close(self) -> None:
        await self._inner.close()

    def _is_allowed(self, host: str, address: str, port: int) -> bool:
        is_here = self._loopback and _is_loopback(host) and _is_loopback(address)
        return is_here or self._own.match(host, port) or self._own.match(address, port)


class OwnThreads(AbstractResolver):
    """Looks names up on `threads` of its own. The loop's are few, and one look-up can hold one for half a minute: the
    names of hosts that callers chose must not hold up those that the service lives on."""

    def __init__(self, *, threads: int) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
            if kind in (socket.AF_INET, socket.AF_INET6)
        ]

    async def close(self) -> None:
        """What is being looked up is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def session(
    resolver: AbstractResolver | None, *, timeout: aiohttp.ClientTimeout, reused: bool = True
) -> aiohttp.ClientSession:
    """Connections that give nothing of ours away, to addresses that `resolver` tells (None: the loop's own); `reused`
    if they serve further requests. Without a timeout of its own, a request lasts as long as `timeout` says."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            ttl_dns_cache=60,
            resolver=resolver,
            ssl=httpx.create_ssl_context(),
            force_close=not reused,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        timeout=timeout,
    )


def is_private(error: aiohttp.ClientError) -> bool:
    """Whether `PublicOnlyResolver` refused the host."""
    return isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, PrivateAddress)


def reason(error: aiohttp.ClientError) -> str:
    """Why there is no answer, for whoever named the host: words without a URL or an address."""
    match error:
        case aiohttp.ClientConnectorDNSError(os_error=NeedsTLS()):
            return "its host may be called by https only"
        case aiohttp.ClientConnectorDNSError(os_error=PrivateAddress()):
            return "its host has an address on a private network"
        case aiohttp.ClientConnectorDNSError():
            return "its host was not found"
        case aiohttp.ClientConnectorCertificateError():
            return "its host has no valid certificate"
        case aiohttp.ClientProxyConnectionError():
            return "the proxy could not be reached"
        case aiohttp.ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case aiohttp.ClientConnectorError():
            return "its host could not be reached"
    return "the connection was lost"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
