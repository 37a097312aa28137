"""Calls of clients that retry without an idempotency key: one that lost its connection goes on, and a retry joins it.

A call is lost if its caller disconnected while it waited, if its answer could not be written, or if the answer was that
it still runs. The ledger has a row for each, so a retry finds it in any process. A retry deletes the row of the oldest
lost call with its key and body, so no two retries join the same work. While a caller waits, its work has no row.

An answer that was written may be lost as well: a line drops it, and the connection ends. A client that has the answer
keeps its connection for the next request, or may close it: both are seen alike. So such an end counts as a loss only
if it comes at once, if most connections of the same caller stay open, and for a retry that comes when the client of
that try would send it. While the habit of the caller is not known, it must also be its latest call. Such losses are
not seen after answers with `Connection: close`, or if a proxy keeps the connection open.

After a minute without a retry, the row is deleted and unfinished work is cancelled.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Final, TypeVar

from auth import Caller, Principal
from contract.callers import ADMIN
from contract.tasks import COMPLETIONS
from errors import LedgerDown, NotFound, StillRunning
from generations.archive import Archive, Stored
from generations.batch import Batch, Work, items_of
from generations.generation import Generation
from generations.reader import Reader
from generations.service import GenerationService, HandedOver
from generations.submission import Submission
from ledger import Ledger, Page
from ledger.access_records import LostCallRecord
from ledger.claims import TakeLostCall, WaitsElsewhere
from ledger.records import GenerationRecord
from loop_thread import finish

T = TypeVar("T")

DOOR: Final = "openai"
"""The door of pictures."""

_DOORS: Final = frozenset({DOOR, COMPLETIONS})
"""The doors with calls that may be joined."""

KEPT_FOR: Final = 60.0
"""Seconds for which a retry may join a lost call."""

AT_ONCE: Final = 2.0
"""Seconds after an answer within which the end of its connection is a sign that it was lost."""

_LOOKS: Final = (0.0, 0.25, 0.5)
"""Seconds before each look for a lost call: its client may notice the loss a little earlier than this service."""

_LONG_LOOK: Final = 0.5
_LONGEST_LOOK: Final = 30.0
"""Seconds between further looks, and of all looks, while the process that has such work may have died."""

_LONGEST_DOUBT: Final = 5.0
"""Seconds of all looks while the habit of a caller is not known: its other answers show it soon."""

_JUDGED_AFTER: Final = 0.25
"""Seconds after which the habit of a caller is judged. Clients retry later: after 0.375 seconds or more."""

_HABIT: Final = 60.0
"""Seconds of answers that show the habit of a caller."""

_MOST_HABITS: Final = 10_000

_FEW: Final = 3
"""Answers that show no habit."""

_MOST_ENDING: Final = 0.75
"""The share of connections above which ending at once is a habit. A line that drops as many is of no use."""

_FIRST_PAUSE: Final = 0.375
_LONGEST_PAUSE: Final = 6.0
"""Seconds before the first retry of a client of OpenAI's, and the longest, less its jitter. Each pause doubles."""

_LATE: Final = 5.0
"""Seconds that a retry may need beyond twice the shortest pause."""

_RESTART: Final = 5.0
"""Seconds that a restart usually takes."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was answered: its work, and the number of its try, from 0."""

    lost: LostCallRecord
    number: int


class LostCalls:
    """The lost calls that retries in this process may join, and those that it ends. Use it on the loop. `clock` returns
    Unix time."""

    def __init__(
        self,
        *,
        service: GenerationService,
        ledger: Ledger,
        archive: Archive,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._service = service
        self._ledger = ledger
        self._archive = archive
        self._habits: dict[str, _Habit] = {}
        self._endings: dict[str, asyncio.Task[None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def call(
        self, submission: Submission, *, number: int, reader: Reader | None = None
    ) -> Work | Stored:
        """Submit a call, or join a lost one if this is a retry: its `number` counts the tries from 0. Wait for its end.
        Once its `reader` has begun to answer, its client does not retry: then a disconnect cancels the work.

        Raises as `GenerationService.submit` does, and StillRunning if it has not ended after the `wait_seconds`."""
        began = _now()
        work = await self._joined(submission, number) if number else None
        if submission.wait_seconds is not None:
            left = max(0.0, submission.wait_seconds - (_now() - began))
            submission = replace(submission, wait_seconds=left)
        try:
            if work is None:
                work = await self._service.submit(replace(submission, wait_seconds=0))
            if reader is not None:
                reader.begin(work)
            work = await self._service.wait(work, submission)
        except HandedOver as handed_over:
            await self._lose(handed_over.work, submission)
            raise StillRunning(handed_over.error.detail, retry_after=_RESTART) from None
        except asyncio.CancelledError:
            if work is not None and reader is not None and reader.answers:
                await finish(self._cancel(work.id))
            else:
                await finish(self._lose_if_accepted(work, submission))
            raise
        if not work.has_ended:
            await self._lose(work, submission)
            raise StillRunning
        return work

    async def lose(self, lost: LostCallRecord) -> None:
        """Let a retry join this call from now on, for a minute."""
        self._ledger.upsert(lost)
        with suppress(LedgerDown):
            await self._ledger.flush()
        self._end_later(lost, KEPT_FOR)

    async def answered(self, caller_id: str) -> None:
        """An answer to this caller was written."""
        self._habit(caller_id).answered.append(_now())

    async def ended(self, answered: Answered) -> None:
        """The connection of an answered call ended at once."""
        lost = replace(answered.lost, lost_at=self._clock(), answered_try=answered.number)
        habit = self._habit(lost.caller_id)
        habit.ended.append(_now())
        await asyncio.sleep(_JUDGED_AFTER)
        if (keeps := habit.keeps(_now())) is not False:
            await self.lose(replace(lost, unsure=keeps is None))

    async def refused(self, caller_id: str) -> None:
        """A try of this caller was refused, and its client will retry without having lost anything."""
        self._habit(caller_id).refused_at = _now()

    def take_over(self, works: Iterable[Work | GenerationRecord]) -> None:
        """Let retries join the unfinished work of a process that has died and so has lost its callers' connections.
        All lost calls in the ledger end in time, also those of dead processes."""
        for work in works:
            is_item = not isinstance(work, Batch) and work.batch_id is not None
            if (
                work.door in _DOORS
                and work.body_fingerprint is not None
                and not is_item
                and not work.has_ended
            ):
                lost = _row(work, work.caller_id, work.body_fingerprint, self._clock())
                self._ledger.upsert(lost)
                self._end_later(lost, KEPT_FOR)
        self._reading = asyncio.create_task(self._read())

    def _habit(self, caller_id: str) -> "_Habit":
        if len(self._habits) > _MOST_HABITS:
            self._habits.clear()
        return self._habits.setdefault(caller_id, _Habit())

    async def _read(self) -> None:
        with suppress(LedgerDown):
            for lost in await self._archive.read(lambda queries: queries.lost_calls()):
                if lost.work_id not in self._endings:
                    self._end_later(lost, max(0.0, lost.lost_at + KEPT_FOR - self._clock()))

    async def _joined(self, submission: Submission, number: int) -> Work | Stored | None:
        """The work of a lost call that this retry joins, None if there is none. It waits while the process that has
        such work may have died, until another one takes that over, and while a loss is in doubt."""
        fingerprint = submission.body_fingerprint
        if fingerprint is None:
            return None
        began, longest = _now(), min(_LONGEST_LOOK, submission.wait_seconds or math.inf)
        retry = _Retry(submission.caller, fingerprint, number, self._clock())
        for pause in chain(_LOOKS, repeat(_LONG_LOOK)):
            await asyncio.sleep(pause)
            work = await self._found(retry)
            seconds = _now() - began
            if work is not None or seconds > longest:
                return work
            if seconds >= sum(_LOOKS) and not await self._may_come(retry, seconds):
                return await self._found(retry)
        return None

    async def _may_come(self, retry: "_Retry", seconds: float) -> bool:
        """Whether a retry that has looked for so many seconds may find a lost call later."""
        if seconds <= _LONGEST_DOUBT and any(
            each.unsure and self._keeps(each.caller_id) is None for each in await self._candidates(retry)
        ):
            return True
        process = self._ledger.process
        return await self._archive.read(
            lambda queries: queries.may_be_left(
                retry.caller.id, retry.fingerprint, process=process, seconds=seconds
            )
        )

    async def _candidates(self, retry: "_Retry") -> list[LostCallRecord]:
        rows = await self._archive.read(
            lambda queries: queries.lost_calls(retry.caller.id, retry.fingerprint)
        )
        return retry.candidates(rows, self._clock())

    async def _found(self, retry: "_Retry") -> Work | Stored | None:
        """The work of a lost call that this retry joins now."""
        for lost in await self._candidates(retry):
            if lost.unsure and not await self._is_likely(lost):
                continue
            work = await self._take(lost, retry.caller)
            if work is not None and not _is_cancelled(work):
                return work
        return None

    def _keeps(self, caller_id: str) -> bool | None:
        """Whether the clients of this caller keep their connections, None if that is not known."""
        habit = self._habits.get(caller_id)
        return None if habit is None else habit.keeps(_now())

    async def _is_likely(self, lost: LostCallRecord) -> bool:
        """Whether its caller is known to keep connections by now; or this is the caller's latest call in any process,
        and no try of the caller was refused here, so that a retry can only be of this call."""
        if (keeps := self._keeps(lost.caller_id)) is not None:
            return keeps
        habit = self._habits.get(lost.caller_id)
        if habit is not None and habit.refused_at > _now() - _HABIT:
            return False
        page = Page(lost.caller_id, limit=1)
        latest = await self._archive.read(lambda queries: queries.page(page))
        return all(lost.work_id in {each.id, each.batch_id} for each in latest)

    async def _take(self, lost: LostCallRecord, caller: Caller) -> Work | Stored | None:
        """The work of this lost call, which is not lost any more; None if another retry has it. If this retry
        disconnects meanwhile, the call is lost again."""
        taking = asyncio.create_task(self._taken(lost, caller))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            if await finish(_result(taking)) is not None:
                await finish(self.lose(lost))
            raise

    async def _taken(self, lost: LostCallRecord, caller: Caller) -> Work | Stored | None:
        if not await self._ledger.claim(TakeLostCall(lost)):
            return None
        self._keep(lost.work_id)
        work = await self._service.find(lost.work_id, caller)
        if work is not None and not work.has_ended and not isinstance(work, Generation):
            # It runs in another process. If that dies, the caller still waits here.
            await self._ledger.claim(WaitsElsewhere(lost.work_id))
        return work

    async def _lose(self, work: Work | Stored, submission: Submission) -> None:
        await self.lose(replace(call_of(work, submission), lost_at=self._clock()))

    async def _lose_if_accepted(self, work: Work | Stored | None, submission: Submission) -> None:
        with suppress(LedgerDown):
            work = work or await self._service.find(submission.id, submission.caller)
            if work is not None:
                await self._lose(work, submission)

    def _end_later(self, lost: LostCallRecord, seconds: float) -> None:
        self._keep(lost.work_id)
        self._endings[lost.work_id] = asyncio.create_task(self._end(lost, seconds))

    def _keep(self, work_id: str) -> None:
        """End no lost call with this work."""
        if (task := self._endings.pop(work_id, None)) is not None:
            task.cancel()

    async def _end(self, lost: LostCallRecord, seconds: float) -> None:
        """Cancel the work of a call that no retry has joined within some seconds, unless its result is delivered."""
        await asyncio.sleep(seconds)
        self._endings.pop(lost.work_id, None)
        with suppress(LedgerDown):
            if await self._ledger.claim(TakeLostCall(lost)):
                await self._cancel(lost.work_id)

    async def _cancel(self, work_id: str) -> None:
        """Cancel unfinished work, unless its result is delivered."""
        with suppress(LedgerDown, NotFound):
            work = await self._archive.load(work_id)
            if work is not None and not work.has_ended and work.webhook is None:
                await self._service.cancel(work_id, Principal(ADMIN, role="admin", caller=None))


class _Habit:
    """The times of the answers to one caller within some seconds, and of the connections that ended at once."""

    def __init__(self) -> None:
        self.answered: deque[float] = deque(maxlen=1000)
        self.ended: deque[float] = deque(maxlen=1000)
        self.refused_at = -math.inf

    def keeps(self, now: float) -> bool | None:
        """Whether the caller's clients keep their connections after answers; None if that is not known."""
        while self.answered and self.answered[0] < now - _HABIT:
            self.answered.popleft()
        while self.ended and self.ended[0] < (self.answered[0] if self.answered else now):
            self.ended.popleft()
        before = sum(each <= now - _JUDGED_AFTER for each in self.answered)
        if len(self.ended) > _MOST_ENDING * len(self.answered):
            return False if len(self.ended) > _FEW else None
        return True if before > len(self.ended) else None


@dataclass(frozen=True, slots=True)
class _Retry:
    """A retry of a client. `number` counts its tries from 0. It arrived at a Unix time."""

    caller: Caller
    fingerprint: str
    number: int
    arrived_at: float

    def candidates(self, rows: Iterable[LostCallRecord], now: float) -> list[LostCallRecord]:
        """The calls that this retry may join, in this order: those without a written answer, the oldest first, and
        then those with one whose client retries at about this time, the latest first."""
        shortest = min(_FIRST_PAUSE * 2 ** (min(self.number, 10) - 1), _LONGEST_PAUSE)
        unwritten = [each for each in rows if each.answered_try is None]
        written = [
            each
            for each in rows
            if each.answered_try == self.number - 1
            and each.lost_at <= now - 0.8 * shortest
            and each.lost_at >= self.arrived_at - 2 * shortest - _LATE
        ]
        return [
            *sorted(unwritten, key=lambda each: each.accepted_at),
            *sorted(written, key=lambda each: -each.lost_at),
        ]


def call_of(work: Work | Stored, submission: Submission) -> LostCallRecord:
    """The row of a call with this work, if it is lost now."""
    return _row(work, submission.caller.id, submission.body_fingerprint or "", time.time())


def _row(work: Work | Stored, caller_id: str, body_fingerprint: str, now: float) -> LostCallRecord:
    return LostCallRecord(
        caller_id=caller_id,
        body_fingerprint=body_fingerprint,
        work_id=work.id,
        accepted_at=work.accepted_at if isinstance(work, GenerationRecord) else work.created_at,
        lost_at=now,
    )


async def _result(task: asyncio.Task[T]) -> T:
    return await task


def _is_cancelled(work: Work | Stored) -> bool:
    return any(each.record().cancelled for each in items_of(work))


def _now() -> float:
    return asyncio.get_running_loop().time()
