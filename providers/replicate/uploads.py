"""Uploads images that are too large to be sent inline to Replicate's files. The prediction's input then
contains their address. An image is sent once for all generations that share it, and again shortly before its
address expires. A temporary failure is retried; a final one fails every generation that shares the image.

Files take up to 100 MB and are kept for 24 hours (replicate.com/docs/reference/http#files.create).
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from weakref import WeakKeyDictionary, WeakValueDictionary

from auth import Caller
from catalog.references import Upload
from errors import ServiceError, UpstreamError
from network.backoff import backoff
from providers.connections import Lost, NotSent
from providers.replicate.errors import is_final, passing_error, seconds_to_wait, service_error
from providers.replicate.transport import Refusal

GOOD_FOR = 20 * 3600.0
"""Seconds for which an address is used. A prediction reads the image when it starts."""

AT_ONCE = 4
"""The most concurrent uploads of one caller, so that slow uploads leave room for other callers, for polls and
for cancels."""

TRIES = 4

FIRST_PAUSE = 0.5
"""The longest wait before the second try, in seconds, if a refusal does not state the wait. It doubles with
each try."""

SendFile = Callable[[Caller, Upload], Awaitable[str]]


class _Sending:
    """One upload, shared by all generations that wait for it. It is cancelled when no generation waits for it."""

    def __init__(self, task: asyncio.Task[str]) -> None:
        self.task = task
        self.waiting = 0
        self.sent_at = math.inf

    async def address(self) -> str:
        self.waiting += 1
        try:
            address = await asyncio.shield(self.task)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self.task.cancel()
        self.sent_at = min(self.sent_at, asyncio.get_running_loop().time())
        return address

    @property
    def is_of_use(self) -> bool:
        """Whether further generations may share it. Even a failed upload is shared, since it was tried for
        all of them."""
        is_stale = asyncio.get_running_loop().time() >= self.sent_at + GOOD_FOR
        return not self.task.cancelled() and not self.task.cancelling() and not is_stale


class Uploads:
    """The images uploaded so far. `send_file(caller, upload)` sends a file and returns its address."""

    def __init__(self, send_file: SendFile, *, first_pause: float = FIRST_PAUSE) -> None:
        self._send_file = send_file
        self._first_pause = first_pause
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._sendings: WeakKeyDictionary[Upload, _Sending] = WeakKeyDictionary()

    async def address(self, caller: Caller, upload: Upload) -> str:
        """The image's address. The image is uploaded first if necessary. Callers do not share uploads. Raises
        ServiceError."""
        sending = self._sendings.get(upload)
        if sending is None or not sending.is_of_use:
            sending = _Sending(asyncio.create_task(self.send(caller, upload)))
            self._sendings[upload] = sending
        return await sending.address()

    async def send(self, caller: Caller, upload: Upload) -> str:
        """The address of a new file, which is uploaded now. Raises ServiceError."""
        turn = self._turns.setdefault(caller.turn, asyncio.Semaphore(AT_ONCE))
        async with turn:
            for number in range(TRIES):
                try:
                    return await self._send_file(caller, upload)
                except NotSent:
                    error: ServiceError = UpstreamError("Replicate cannot be reached.")
                    error.falls_back = False  # other models cannot be reached either
                    wait = None
                except Lost:  # a second copy of a file costs nothing
                    error, wait = UpstreamError("The file could not be uploaded to Replicate."), None
                except Refusal as refusal:
                    if is_final(refusal):
                        raise service_error(refusal, caller) from None
                    error, wait = passing_error(refusal), seconds_to_wait(refusal)
                if number + 1 < TRIES:
                    pause = backoff(number + 1, first=self._first_pause) if wait is None else wait
                    await asyncio.sleep(pause)
        raise error
