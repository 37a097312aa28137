"""Fetches the images of prompts: at addresses that callers name, in `data:` URIs, and uploaded ones.

An address may lead to any public host. It and each redirect are checked (`network/public_http.py`), requests carry no
credentials, and no proxy is used, since a proxy would resolve the host unchecked. The type of an image follows from its
content.
"""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver

from catalog.references import Upload, decoded_data_uri
from errors import InvalidRequest, Problem
from loop_thread import Pool
from media.formats import GIF, HEAD, JPEG, PNG, WEBP, media_type
from media.pictures import check_whole
from network import public_http
from network.public_http import PublicOnlyResolver
from network.redirects import fetched

LARGEST: Final = 20_000_000
"""The most bytes of one image, and of all images of a call together."""

_SECONDS: Final = 30.0

_LARGE: Final = 200_000
"""Bytes of an image, or characters of a `data:` URI, that are read on other threads. It would block the loop for more
than some milliseconds."""

_TAKEN: Final = (PNG, JPEG, WEBP, GIF)


class PictureSource:
    """Fetches images, and reads large ones on `threads`. With `loopback`, this machine is a public host, too. Use it on
    one loop."""

    def __init__(
        self, *, threads: Pool, loopback: bool = False, resolver: AbstractResolver | None = None
    ) -> None:
        self._threads = threads
        self._loopback = loopback
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, image: Any) -> tuple[str, bytes]:
        """The media type and the bytes of an image: an address, a `data:` URI, or an `Upload`. Raises
        InvalidRequest."""
        shown = str(image)[:200]
        try:
            return await self._fetched(image)
        except ValueError as why:
            raise InvalidRequest([Problem("images", str(why), shown)]) from None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def _fetched(self, image: Any) -> tuple[str, bytes]:
        """As `fetch`. Raises ValueError with a message that completes the sentence "It …"."""
        if isinstance(image, Upload):
            return await self._read(image.size, partial(_content, image))
        if image[:5].lower() == "data:":
            return await self._read(len(image), lambda: decoded_data_uri(image)[1])
        content = await self._downloaded(image)
        return await self._read(len(content), lambda: content)

    async def _read(self, size: int, content: Callable[[], bytes]) -> tuple[str, bytes]:
        """Check the `content` of an image of about this size."""
        if size > _LARGE:
            return await self._threads.run(lambda: _checked(content()))
        return _checked(content())

    async def _downloaded(self, address: str) -> bytes:
        async with fetched(self._open(), address, seconds=_SECONDS, loopback=self._loopback) as response:
            return await _received(response)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            inner = self._resolver or public_http.ThreadPoolResolver(threads=4)
            resolver = PublicOnlyResolver(inner, loopback=self._loopback)
            timeout = aiohttp.ClientTimeout(total=_SECONDS)
            self._session = public_http.client_session(resolver, timeout=timeout)
        return self._session


async def _received(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        _check_size(len(content))
    return bytes(content)


def _content(upload: Upload) -> bytes:
    _check_size(upload.size)
    return upload.content()


def _checked(content: bytes) -> tuple[str, bytes]:
    """The media type and the bytes of a whole image. Raises ValueError."""
    media = media_type(content[:HEAD])
    if media not in _TAKEN:
        raise ValueError("is no PNG, JPEG, WebP or GIF image")
    _check_size(len(content))
    check_whole(BytesIO(content), media)
    return media.name, content


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"has more than {LARGEST // 1_000_000} MB")
