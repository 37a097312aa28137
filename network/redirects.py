"""Fetches an address that a caller has chosen: follows its redirects, and checks each host on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin

import aiohttp

from network.public_http import describe_error, is_private_address_error, parse_url
from network.urls import encoded_url

REDIRECTS: Final = 3
MOVED: Final = {301, 302, 303, 307, 308}
"""At most so many redirects are followed, of responses with these statuses."""


@asynccontextmanager
async def fetched(
    session: aiohttp.ClientSession, address: str, *, seconds: float, loopback: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer 200 of the public host at this address, or of the one that it leads to, open during the block. The
    block must end within so many seconds. With `loopback`, this machine is a public host, too. Raises ValueError with a
    message that completes the sentence "It …", also for an error of the connection inside the block."""
    try:
        async with asyncio.timeout(seconds), _followed(session, address, loopback=loopback) as response:
            yield response
    except TimeoutError:
        raise ValueError(f"could not be fetched within {seconds:g} s") from None
    except aiohttp.ClientError as error:
        if is_private_address_error(error):
            raise ValueError("must name a public host") from None
        raise ValueError(f"could not be fetched: {describe_error(error)}") from None


@asynccontextmanager
async def _followed(
    session: aiohttp.ClientSession, address: str, *, loopback: bool
) -> AsyncIterator[aiohttp.ClientResponse]:
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
