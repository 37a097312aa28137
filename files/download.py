"""Downloads one output, and checks its size and media type.

Temporary failures are retried with backoff. Each attempt and the whole download have a timeout, so the caller of a
generation learns in time that an output is unavailable.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from catalog.references import decoded_data_uri
from files.hosts import OutputHosts, OutputUnavailable, TemporarilyUnavailable
from files.spool import SpooledOutput
from loop_thread import Pool
from media.files import ending_of, file_type
from media.formats import HEAD, MediaType, is_page, media_type
from network.backoff import backoff

MAX_CONSECUTIVE_FAILURES: Final = 32
"""After this many failed attempts in a row, over all outputs, each output gets one attempt until one succeeds. So a
host that is down does not delay every caller by the whole timeout."""

TypeOf = Callable[[bytes, str, str], MediaType]
"""The type of a file by its first bytes, its declared type and the ending of its URL. Raises TemporarilyUnavailable if
that is not accepted."""

_log = structlog.get_logger("files")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to attempt a download; times in seconds. The backoff doubles from `first_backoff`. `total_timeout`
    covers all attempts and the backoff between them."""

    max_attempts: int = 4
    first_backoff: float = 0.5
    attempt_timeout: float = 60.0
    total_timeout: float = 120.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")


class Downloads:
    """Downloads outputs of at most `largest` bytes from `source`."""

    def __init__(self, source: OutputHosts, *, largest: int, retry_policy: RetryPolicy, pool: Pool) -> None:
        self._source = source
        self._largest = largest
        self._retry_policy = retry_policy
        self._pool = pool
        self._consecutive_failures = 0

    async def fetch(self, url: str, into: SpooledOutput, *, any_type: bool = False) -> MediaType:
        """Write the output to `into`, and return the media type. Only pictures and films are accepted, or files of
        `any_type`. Raises OutputUnavailable, and OSError if the output cannot be written."""
        type_of = _any_type if any_type else _picture_or_film
        failure = TemporarilyUnavailable("it took too long")
        try:
            # It includes the wait until few others are in progress, so that the caller learns of a failure in time.
            async with asyncio.timeout(self._retry_policy.total_timeout):
                for number in range(self._retry_policy.max_attempts):
                    if number:
                        if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES and not failure.missing:
                            break
                        await asyncio.sleep(backoff(number, first=self._retry_policy.first_backoff))
                    try:
                        media = await self._try(url, into, type_of)
                    except TemporarilyUnavailable as error:
                        failure = error
                        self._consecutive_failures += not error.missing  # a host that responds is not down
                        _log.info("download_interrupted", tried=number + 1, reason=str(error))
                    else:
                        self._consecutive_failures = 0
                        return media
        except TimeoutError:
            # That the time is over does not prove that the output is missing.
            failure = TemporarilyUnavailable(str(failure))
        raise failure

    async def _try(self, url: str, into: SpooledOutput, type_of: TypeOf) -> MediaType:
        await into.begin()
        try:
            async with asyncio.timeout(self._retry_policy.attempt_timeout):
                receive = self._decode if url[:5].lower() == "data:" else self._receive
                return await receive(url, into, type_of)
        except TimeoutError as error:
            raise TemporarilyUnavailable("it took too long") from error

    async def _receive(self, url: str, into: SpooledOutput, type_of: TypeOf) -> MediaType:
        media, ending = None, ending_of(url)
        async with self._source.get(url) as response:
            self._check(response.length or 0)
            async for chunk in response.chunks:
                self._check(into.size + len(chunk))
                await into.write(chunk)
                if media is None and len(into.head) == HEAD:
                    # Checked early, so that an error page or an endless response is not read to its end.
                    media = type_of(into.head, response.media_type, ending)
            return media or type_of(into.head, response.media_type, ending)

    async def _decode(self, url: str, into: SpooledOutput, type_of: TypeOf) -> MediaType:
        try:
            declared, content = await self._pool.run(lambda: decoded_data_uri(url))
        except ValueError as error:
            raise OutputUnavailable("its data: URI is not base64") from error
        self._check(len(content))
        try:
            media = type_of(content[:HEAD], declared, "")
        except TemporarilyUnavailable as error:
            raise OutputUnavailable(str(error)) from error
        await into.write(content)
        return media

    def _check(self, size: int) -> None:
        if size > self._largest:
            raise OutputUnavailable(f"it is larger than {self._largest} bytes")


def _picture_or_film(head: bytes, declared: str, _ending: str) -> MediaType:
    found = media_type(head)
    if found is None:
        reason = "it is no picture or film of a kind that is known here"
        raise TemporarilyUnavailable(reason, missing=is_page(head, declared))
    return found


def _any_type(head: bytes, declared: str, ending: str) -> MediaType:
    if not head:
        raise TemporarilyUnavailable("it is empty", missing=True)
    return file_type(head, declared, ending)
