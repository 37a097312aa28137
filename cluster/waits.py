"""The leases of this process at a gate that another process may keep, and their rows."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from errors import LedgerDown
from ledger import Ledger
from ledger.records import LeaseRecord


class Waiting(Protocol):
    """A lease with a row (`cluster.lease.RowLease`)."""

    record: LeaseRecord
    granted: asyncio.Future[None]

    @property
    def has_slot(self) -> bool: ...

    def release(self) -> None: ...


W = TypeVar("W", bound=Waiting)


class Waits(Generic[W]):
    """Leases that wait or hold a slot, of one gate."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._closed: Callable[[], Exception] | None = None
        self._leases: dict[str, W] = {}
        self._held: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_flushing = False

    @property
    def is_closed(self) -> bool:
        """Whether the process stops."""
        return self._closed is not None

    @property
    def has_waits(self) -> bool:
        return any(not each.granted.done() for each in self._leases.values())

    @property
    def slots_held(self) -> int:
        return self._held.total()

    def in_flight(self, caller: str) -> int:
        return self._held[caller]

    # ── Rows

    def write(self, record: LeaseRecord) -> None:
        """Write a row soon."""
        self._ledger.upsert(record)
        if not self._is_flushing:
            self._is_flushing = True
            self.start(self._flush())

    def forget(self, lease: W) -> None:
        """A lease was released."""
        if self._leases.pop(lease.record.id, None) is not None and lease.has_slot:
            self._held[lease.record.caller] -= 1

    def lose_grant(self, lease: W) -> None:
        """The grant of a lease was lost, so it waits for another one."""
        self._held[lease.record.caller] -= 1

    def grant(self, ids: Collection[str]) -> None:
        """The rows with these ids are granted; others may be among them."""
        for lease_id in ids:
            lease = self._leases.get(lease_id)
            if lease is not None and not lease.granted.done():
                lease.granted.set_result(None)
                self._held[lease.record.caller] += 1

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run this beside everything else."""
        task: asyncio.Task[object] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        await asyncio.sleep(0)  # the rows of one tick go together
        self._is_flushing = False
        with suppress(LedgerDown):  # it is tried again
            await self._ledger.flush()

    def _hold(self, lease: W) -> None:
        self._leases[lease.record.id] = lease
        self._held[lease.record.caller] += 1

    # ── Ends of waits

    def dismiss(self, caller: str, batch: str, reason: Callable[[], Exception]) -> None:
        self._end_waits(reason, lambda each: (each.caller, each.batch) == (caller, batch))

    def close(self, reason: Callable[[], Exception]) -> None:
        self._closed = reason
        self._end_waits(reason, lambda _: True)

    def _end_waits(self, reason: Callable[[], Exception], ends: Callable[[LeaseRecord], bool]) -> None:
        for lease in list(self._leases.values()):
            if not lease.granted.done() and ends(lease.record):
                lease.release()
                lease.granted.set_exception(reason())
