"""Fetches a zip of images from an address that a caller names.

The address and each redirect must lead to a public host, requests carry no credentials, and no proxy is used, since a
proxy would resolve the host unchecked.
"""

import asyncio
from pathlib import Path
from typing import Final

import aiohttp

from network import public_http
from network.public_http import PublicOnlyResolver
from network.redirects import fetched

_SECONDS: Final = 120.0
"""For the whole download."""


class ZipTooLarge(Exception):
    """The file has more bytes than Replicate takes."""


async def fetch_zip(address: str, path: Path, *, most: int, loopback: bool = False) -> None:
    """Write the file at `address` to `path`. With `loopback`, this machine is a public host, too. Raises ZipTooLarge
    for more than `most` bytes, ValueError with a message that completes the sentence "It …", and OSError if the disk
    fails."""
    resolver = PublicOnlyResolver(public_http.ThreadPoolResolver(threads=1), loopback=loopback)
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with (
        public_http.client_session(resolver, timeout=timeout, reused=False) as session,
        fetched(session, address, seconds=_SECONDS, loopback=loopback) as response,
    ):
        await _receive(response, path, most)


async def _receive(response: aiohttp.ClientResponse, path: Path, most: int) -> None:
    if (response.content_length or 0) > most:
        raise ZipTooLarge
    size = 0
    with path.open("wb") as file:
        async for chunk in response.content.iter_chunked(256 * 1024):
            size += len(chunk)
            if size > most:
                raise ZipTooLarge
            await asyncio.to_thread(file.write, chunk)
