"""One output, fetched into a temporary file: whole, not too large, and a picture or film by its own bytes.

What fails in passing is tried again after growing pauses. Each try has an end, and so has all of it: whoever waits for
a picture is told in time that it could not be had.
"""

import asyncio
import base64
import binascii
import random
import re
from dataclasses import dataclass
from typing import Final

import structlog

from files.hosts import Hosts, Lost, NotHad
from files.spool import Temporary
from loop_thread import Pool
from media import HEAD, MediaType, media_type

HOPELESS: Final = 32
"""Tries lost in a row, of whatever outputs, after which each gets only one until one succeeds: whoever waits for
pictures that are made and paid for need not wait for a host that answers nobody."""

_DATA: Final = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)

_log = structlog.get_logger("files")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try for one output; times in seconds. One try may take `one_try`, and all tries with their pauses,
    which double from `first_pause`, `overall`."""

    tries: int = 4
    first_pause: float = 0.5
    one_try: float = 60.0
    overall: float = 120.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries must be at least 1, got {self.tries}")


class Downloads:
    """Fetches from `source` what is at most `largest` bytes."""

    def __init__(self, source: Hosts, *, largest: int, patience: Patience, pool: Pool) -> None:
        self._source = source
        self._largest = largest
        self._patience = patience
        self._pool = pool
        self._lost_in_a_row = 0

    async def fetch(self, url: str, into: Temporary) -> MediaType:
        """What was written into the file, which is finished. Raises NotHad, and OSError if it cannot be written."""
        lost = Lost("it took too long")
        try:
            async with asyncio.timeout(self._patience.overall):
                for number in range(self._patience.tries):
                    if number:
                        if self._lost_in_a_row >= HOPELESS:
                            break
                        await asyncio.sleep(self._pause(number))
                    try:
                        media = await self._try(url, into)
                    except Lost as error:
                        lost = error
                        self._lost_in_a_row += 1
                        _log.info("download_lost", tried=number + 1, reason=str(error))
                    else:
                        self._lost_in_a_row = 0
                        return media
        except TimeoutError:
            pass
        raise lost

    def _pause(self, number: int) -> float:
        """Seconds before a further try, the first of which is number 1."""
        return self._patience.first_pause * 2.0 ** (number - 1) * random.uniform(0.5, 1)  # noqa: S311

    async def _try(self, url: str, into: Temporary) -> MediaType:
        await into.begin()
        try:
            async with asyncio.timeout(self._patience.one_try):
                await (self._decode if _DATA.match(url) else self._receive)(url, into)
        except TimeoutError as error:
            raise Lost("it took too long") from error
        await into.finish()
        return _told(into.head)

    async def _receive(self, url: str, into: Temporary) -> None:
        async with self._source.get(url) as answer:
            self._check(answer.length or 0)
            async for chunk in answer.chunks:
                begun = len(into.head) == HEAD
                await into.write(chunk)
                self._check(into.size)
                if not begun and len(into.head) == HEAD:
                    _told(into.head)  # now: what is a page or has no end is not read to its end

    async def _decode(self, url: str, into: Temporary) -> None:
        start = url.index(",") + 1
        self._check((len(url) - start) * 3 // 4 - 2)
        try:
            content = await self._pool.run(lambda: base64.b64decode(url[start:], validate=True))
        except (binascii.Error, ValueError) as error:
            raise NotHad("its data: URI is not base64") from error
        self._check(len(content))
        if media_type(content[:HEAD]) is None:
            raise NotHad("it is no picture or film of a kind that is known here")
        await into.write(content)

    def _check(self, size: int) -> None:
        if size > self._largest:
            raise NotHad(f"it is larger than {self._largest} bytes")


def _told(head: bytes) -> MediaType:
    found = media_type(head)
    if found is None:
        raise Lost("it is no picture or film of a kind that is known here")
    return found
