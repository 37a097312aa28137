"""One attempt to post a result to a caller's webhook.

`network/public_http.py` decides which hosts a URL may lead to.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from network import public_http
from network.host_rules import NO_HOSTS, HostRules

MAX_IN_FLIGHT: Final = 32
"""Attempts at the same time."""


class DeliveryFailed(Exception):
    """The receiver did not respond. The message gives the reason and is meant for the caller."""


@dataclass(frozen=True, slots=True)
class Response:
    """The status of a receiver's response, and its `Retry-After` header, unparsed."""

    status: int
    retry_after: str | None = None


class Sender:
    """Posts messages to public hosts and to `allowed_hosts`. With `loopback`, also to this machine.

    An attempt ends with the head of the response; the body is not read. Each attempt opens its own connection, since
    a receiver may be about to close a kept one, and that would cost an attempt.
    """

    def __init__(
        self, *, loopback: bool, allowed_hosts: HostRules = NO_HOSTS, resolver: AbstractResolver | None = None
    ) -> None:
        self._names = resolver or public_http.ThreadPoolResolver(threads=MAX_IN_FLIGHT)
        self._resolvers = {
            scheme: public_http.PublicOnlyResolver(
                self._names, loopback=loopback, allowed_hosts=allowed_hosts, tls=scheme == "https"
            )
            for scheme in ("http", "https")
        }
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    async def post(self, url: URL, content: bytes, headers: Mapping[str, str]) -> Response:
        """Send one attempt. Returns the response, with any status. Raises DeliveryFailed. It has no timeout: the
        caller cancels it."""
        if url.scheme not in self._sessions:
            self._sessions[url.scheme] = public_http.client_session(
                self._resolvers[url.scheme], timeout=aiohttp.ClientTimeout(total=None), reused=False
            )
        request = self._sessions[url.scheme].post(url, data=content, headers=headers, allow_redirects=False)
        try:
            async with request as response:
                return Response(response.status, response.headers.get("Retry-After"))
        except aiohttp.ClientError as error:
            raise DeliveryFailed(public_http.describe_error(error)) from error

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        await self._names.close()


def retry_after_seconds(header: str, *, now: float) -> float:
    """Seconds to wait according to a `Retry-After` header (RFC 9110 10.2.3). Returns 0 for a header that cannot be
    parsed; a date in the past is a negative number."""
    if re.fullmatch(r"[0-9]+", header):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
