"""One call over one connection: its lease, its deadline, and the longest silence."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from providers.calls import CallAnswer, CallLease
from providers.connections import Lost
from providers.gemini.chunks import AnswerReader
from providers.gemini.refusals import MAX_REFUSAL, Refusal
from providers.gemini.transport import Connections, Incoming, Request, read_all


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds."""

    call: float = 1800.0
    """A whole call."""
    silence: float = 300.0
    """Without a byte of the answer. A model sends none while it thinks."""
    closing: float = 5.0
    """From the reason of the end to the end of the answer, and the body of an error."""
    other: float = 15.0
    """A request other than a call, with its wait for a place in the window."""


class Progress:
    """How far a call has come, which is reported to its lease."""

    def __init__(self, lease: CallLease) -> None:
        self._lease = lease
        self.is_sent = False
        self._is_answered = False

    def sent(self) -> None:
        self._lease.sent()
        self.is_sent = True

    def answered(self) -> None:
        self._lease.answered()
        self._is_answered = True

    def not_sent(self) -> None:
        if self.is_sent:
            self._lease.not_sent()
            self.is_sent = False

    def given_up(self) -> None:
        """The connection is closed."""
        if self.is_sent and not self._is_answered:
            self._lease.lost()


async def receive(
    connections: Connections,
    request: Request,
    progress: Progress,
    reader: AnswerReader,
    *,
    timeouts: Timeouts,
    seconds: float,
) -> CallAnswer:
    """Send the request, and read its whole answer within so many seconds. Raises Refusal, NotSent, Lost and
    TimeoutError, but none of them once the answer has the reason of its end."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    try:
        async with (
            asyncio.timeout_at(min(deadline, now() + timeouts.silence)) as timer,
            connections.open(request) as incoming,
        ):
            progress.answered()
            await raise_if_refused(incoming, timeouts.closing)
            while part := await incoming.read():
                reader.feed(part)
                quiet = timeouts.closing if reader.is_finished else timeouts.silence
                timer.reschedule(min(deadline, now() + quiet))
    except (Lost, Refusal, TimeoutError):
        if not reader.is_finished:
            raise
    return reader.answer()


async def raise_if_refused(incoming: Incoming, seconds: float) -> None:
    """Raises Refusal for an error status. The body of the error counts as empty if it cannot be read within so many
    seconds: most is known by the status."""
    if incoming.status == 200:
        return
    body = b""
    with suppress(Lost, TimeoutError):
        async with asyncio.timeout(seconds):
            body = await read_all(incoming, MAX_REFUSAL)
    raise Refusal.of_answer(incoming.status, body)
