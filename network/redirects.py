"""Follows the redirects of an address that somebody outside has chosen, and checks each host on the way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin

import aiohttp

from network.public_http import parse_url
from network.urls import encoded_url

REDIRECTS: Final = 3
MOVED: Final = {301, 302, 303, 307, 308}
"""At most so many redirects are followed, of responses with these statuses."""


@asynccontextmanager
async def fetched(
    session: aiohttp.ClientSession, address: str, *, loopback: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer 200 of the public host at this address, or of the one that it leads to. With `loopback`, this machine
    is a public host, too. Raises ValueError with a message that completes the sentence "It …", and ClientError."""
    for _ in range(REDIRECTS + 1):
        target = parse_url(address, loopback=loopback)
        async with session.get(target, allow_redirects=False) as response:
            if response.status in MOVED:
                # Not by yarl, which would spell it otherwise: the host may have signed it.
                address = urljoin(address, encoded_url(response.headers.get("Location", "")))
                continue
            if response.status != 200:
                raise ValueError(f"could not be fetched: its host answered {response.status}")
            yield response
            return
    raise ValueError(f"was redirected more than {REDIRECTS} times")
