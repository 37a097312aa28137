"""One output, fetched into a temporary file: whole, not too large, and a picture or film by its own bytes.

A passing failure is tried again after growing pauses. Each try and the whole download have a time limit, so a caller
who waits for a picture learns in time that it cannot be had.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from catalog.references import decoded_data_uri
from files.hosts import Hosts, Lost, OutputUnavailable
from files.spool import Temporary
from loop_thread import Pool
from media.formats import HEAD, MediaType, is_page, media_type
from network.backoff import backoff

HOPELESS: Final = 32
"""After this many lost tries in a row, over all outputs, each output gets one try until one succeeds. So callers do not
wait long for a host that is down, although their pictures are made and paid for."""

_log = structlog.get_logger("files")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
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

    def __init__(self, source: Hosts, *, largest: int, patience: RetryPolicy, pool: Pool) -> None:
        self._source = source
        self._largest = largest
        self._patience = patience
        self._pool = pool
        self._lost_in_a_row = 0

    async def fetch(self, url: str, into: Temporary) -> MediaType:
        """Write the output into a file, which is then finished, and return its type. Raises OutputUnavailable, and
        OSError if the file cannot be written."""
        lost = Lost("it took too long")
        try:
            async with asyncio.timeout(self._patience.overall):
                for number in range(self._patience.tries):
                    if number:
                        if self._lost_in_a_row >= HOPELESS and not lost.missing:
                            break
                        await asyncio.sleep(backoff(number, first=self._patience.first_pause))
                    try:
                        media = await self._try(url, into)
                    except Lost as error:
                        lost = error
                        self._lost_in_a_row += not error.missing  # its host is there
                        _log.info("download_interrupted", tried=number + 1, reason=str(error))
                    else:
                        self._lost_in_a_row = 0
                        return media
        except TimeoutError:
            pass
        raise lost

    async def _try(self, url: str, into: Temporary) -> MediaType:
        await into.begin()
        try:
            async with asyncio.timeout(self._patience.one_try):
                announced = await (self._decode if url[:5].lower() == "data:" else self._receive)(url, into)
        except TimeoutError as error:
            raise Lost("it took too long") from error
        await into.finish()
        return _type_of(into.head, announced)

    async def _receive(self, url: str, into: Temporary) -> str:
        """Returns the media type that the host announces."""
        async with self._source.get(url) as answer:
            self._check(answer.length or 0)
            async for chunk in answer.chunks:
                begun = len(into.head) == HEAD
                await into.write(chunk)
                self._check(into.size)
                if not begun and len(into.head) == HEAD:
                    # Checked early, so that an error page or endless answer is not read to its end.
                    _type_of(into.head, answer.media_type)
            return answer.media_type

    async def _decode(self, url: str, into: Temporary) -> str:
        try:
            _, content = await self._pool.run(lambda: decoded_data_uri(url))
        except ValueError as error:
            raise OutputUnavailable("its data: URI is not base64") from error
        self._check(len(content))
        if media_type(content[:HEAD]) is None:
            raise OutputUnavailable("it is no picture or film of a kind that is known here")
        await into.write(content)
        return ""

    def _check(self, size: int) -> None:
        if size > self._largest:
            raise OutputUnavailable(f"it is larger than {self._largest} bytes")


def _type_of(head: bytes, announced: str) -> MediaType:
    found = media_type(head)
    if found is None:
        reason = "it is no picture or film of a kind that is known here"
        raise Lost(reason, missing=is_page(head, announced))
    return found
