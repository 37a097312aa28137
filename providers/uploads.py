"""Images that are too large to be sent inline: Replicate's files take them first, and a prediction is given their
address. Each is sent once for all the generations that share it, and again when the address is about to run out.

Files take up to 100 MB and are kept for 24 hours (replicate.com/docs/reference/http#files.create).
"""

import asyncio
import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from auth import Caller
from errors import UpstreamError, UpstreamRateLimited
from providers import TryAgain
from providers.refusals import seconds_to_wait, service_error
from providers.transport import Lost, NotSent, Refusal
from references import Upload

GOOD_FOR = 20 * 3600.0
"""Seconds that an address is used for; it is read when the prediction starts."""

AT_ONCE = 4
"""Of one caller, so that slow uploads of one leave room for the others, and all of them for looks and cancels."""

SendFile = Callable[[Caller, Upload], Awaitable[Any]]


class Content(io.BufferedIOBase):
    """An image as the client takes a file: its name must be text, and that of a temporary file is a number."""

    def __init__(self, upload: Upload) -> None:
        self.name = f"image{upload.media.extension}"
        self._file = upload.file

    def read(self, size: int | None = -1, /) -> bytes:
        return self._file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(slots=True)
class _Sent:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    address: str = ""
    at: float = 0.0


class Uploads:
    """What has been sent ahead. `send_file(caller, upload)` sends a file and gives Replicate's answer."""

    def __init__(self, send_file: SendFile) -> None:
        self._send_file = send_file
        self._sending: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._sent: WeakKeyDictionary[Upload, _Sent] = WeakKeyDictionary()

    async def address(self, caller: Caller, upload: Upload) -> str:
        """Where the image is, sent if it was not yet. An upload belongs to one caller. Raises TryAgain or
        ServiceError."""
        sent = self._sent.setdefault(upload, _Sent())
        clock = asyncio.get_running_loop().time
        async with sent.lock:  # whoever waits here finds it sent, or tries in its turn
            if not sent.address or clock() >= sent.at + GOOD_FOR:
                sending = self._sending.setdefault(caller.id, asyncio.Semaphore(AT_ONCE))
                async with sending:
                    sent.address, sent.at = await self._send(caller, upload), clock()
        return sent.address

    async def _send(self, caller: Caller, upload: Upload) -> str:
        try:
            return _address(await self._send_file(caller, upload))
        except NotSent:
            raise TryAgain(UpstreamError("Replicate cannot be reached."), unreachable=True) from None
        except Lost:  # a file that is there twice costs nothing
            raise TryAgain(UpstreamError("The image could not be uploaded to Replicate.")) from None
        except Refusal as refusal:
            if refusal.status == 429:
                wait = seconds_to_wait(refusal)
                raise TryAgain(UpstreamRateLimited(), wait=wait) from None
            if refusal.status >= 500 or refusal.status == 408:
                raise TryAgain(service_error(refusal, caller), wait=seconds_to_wait(refusal)) from None
            raise service_error(refusal, caller) from None


def _address(answer: Any) -> str:
    urls = answer.get("urls") if isinstance(answer, dict) else None
    address = urls.get("get") if isinstance(urls, dict) else None
    if not isinstance(address, str) or not address:
        raise Lost("the answer is no file")
    return address
