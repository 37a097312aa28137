"""HTTP to hosts that a caller or an upstream names: public addresses and the operator's hosts only, no credentials
(protection against SSRF).

A URL is checked when the request is parsed, and again before each use. `PublicOnlyResolver` checks the addresses that
the connection is then made to, so a second DNS look-up cannot change the result. Requests send no token, no cookie and
nothing from `.netrc`, and ignore the proxies of the environment. Certificates are verified. Redirects are not followed:
the caller checks each as a new URL.
"""

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from network.addresses import is_public_address, parse_address, public_host
from network.host_rules import NO_HOSTS, HostRules
from network.tls import client_context

MAX_URL_LENGTH: Final = 2048

_URL: Final = re.compile(r"https?://[!-~]+", re.IGNORECASE)
_HEADERS: Final = {
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "User-Agent": "replicate-concurrent-generation",
}


def check_url(url: str, *, loopback: bool, allowed_hosts: HostRules = NO_HOSTS) -> str:
    """Return the URL if requests to it are allowed. Raises ValueError with the requirement, as in "must be an https
    URL".

    `loopback` also allows this machine, and `allowed_hosts` the operator's hosts, both without TLS. If `allowed_hosts`
    has a network, any name is allowed here, and `PublicOnlyResolver` checks its addresses.
    """
    parse_url(url, loopback=loopback, allowed_hosts=allowed_hosts)
    return url


def parse_url(url: str, *, loopback: bool, allowed_hosts: HostRules = NO_HOSTS) -> URL:
    """As `check_url`, but returns the URL as parsed by the library that connects."""
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"must be at most {MAX_URL_LENGTH} characters")
    if not _URL.fullmatch(url):
        raise ValueError("must be an https URL")
    try:
        parts, parsed = urlsplit(url), URL(url, encoded=True)
        host, port = (parsed.raw_host or "").lower(), parsed.port or 0  # reading the port checks it
    except ValueError:
        raise ValueError("must name a public host") from None
    if parts.username is not None:
        raise ValueError("must not hold a user name or password")
    # Two parsers must agree on the host: a URL that they read differently is refused.
    is_allowed = port != 0 and host == parts.hostname and allowed_hosts.may_match(host, port)
    is_allowed |= port != 0 and loopback and _is_loopback(host)
    if parsed.scheme != "https" and not is_allowed:
        raise ValueError("must be an https URL")
    if not is_allowed and (not host or host != public_host(url)):
        raise ValueError("must name a public host")
    return parsed


class PrivateAddress(OSError):
    """A name resolves to an address that is not public."""


class TLSRequired(PrivateAddress):
    """A plain http URL names a host that resolves to no address that the operator allows."""


class PublicOnlyResolver(AbstractResolver):
    """Resolves by `inner`, and refuses a name with an address that is not public.

    An address is allowed if the host or the address is in `allowed_hosts`, or if `loopback` is true and both are this
    machine. If a name has allowed addresses, only those are returned. Otherwise `resolve` raises PrivateAddress unless
    all are public; without `tls` it raises TLSRequired even then.
    """

    def __init__(
        self,
        inner: AbstractResolver,
        *,
        loopback: bool = False,
        allowed_hosts: HostRules = NO_HOSTS,
        tls: bool = True,
    ) -> None:
        self._inner = inner
        self._loopback = loopback
        self._allowed_hosts = allowed_hosts
        self._tls = tls

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if allowed := [each for each in found if self._is_allowed(host, each["host"], port)]:
            return allowed
        if not self._tls:
            raise TLSRequired("an address that is not allowed without TLS")
        if not all(is_public_address(each["host"]) for each in found):
            raise PrivateAddress("a private address")
        return found

    async def close(self) -> None:
        await self._inner.close()

    def _is_allowed(self, host: str, address: str, port: int) -> bool:
        is_here = self._loopback and _is_loopback(host) and _is_loopback(address)
        return is_here or self._allowed_hosts.match(host, port) or self._allowed_hosts.match(address, port)


class ThreadPoolResolver(AbstractResolver):
    """Resolves names on its own threads. The loop has few threads, and one look-up can take half a minute: the hosts
    of callers must not delay the hosts that the service depends on."""

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
        """Does not wait for look-ups in progress."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def client_session(
    resolver: AbstractResolver | None, *, timeout: aiohttp.ClientTimeout, reused: bool = True
) -> aiohttp.ClientSession:
    """A session without credentials that connects to the addresses of `resolver` (None: the loop's own resolver).
    `reused` keeps connections for further requests. `timeout` is the default for each request."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,
            ttl_dns_cache=60,
            resolver=resolver,
            ssl=client_context(),
            force_close=not reused,
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        timeout=timeout,
    )


def is_private_address_error(error: aiohttp.ClientError) -> bool:
    """Whether `PublicOnlyResolver` refused the host of the failed request."""
    return isinstance(error, aiohttp.ClientConnectorDNSError) and isinstance(error.os_error, PrivateAddress)


def describe_error(error: aiohttp.ClientError) -> str:
    """The reason of a failed request, for the caller who named the host. It has no URL and no address."""
    match error:
        case aiohttp.ClientConnectorDNSError(os_error=TLSRequired()):
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
    address = parse_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
