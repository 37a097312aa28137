"""The part of this process in a gate that another process may keep: its leases, their rows, and its events."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from cluster.lease import RowLease
from errors import LedgerDown
from ledger import Ledger
from ledger.records import LeaseRecord

W = TypeVar("W", bound=RowLease[Any])

Tell: TypeAlias = Callable[[str, dict[str, Any]], Coroutine[Any, Any, object]]
"""Sends an event to the holder of the gate: the name of a method of the gate, and its arguments."""


class Holder(Protocol):
    """Keeps a gate while this process holds the role: `cluster.keeper.Keeper` or `cluster.call_keeper.CallKeeper`."""

    @property
    def gate(self) -> Any:
        """The gate of all processes, or None while another process keeps it."""


class Waits(Generic[W]):
    """Leases of one gate that wait or hold a slot, and the events that its `keeper` must know."""

    def __init__(self, ledger: Ledger, keeper: Holder, tell: Tell) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self._tell = tell
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
            self._start(self._flush())

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

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
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

    # ── Events

    def _send(self, event: str, **arguments: Any) -> None:
        self._start(self._deliver(event, arguments))

    async def _deliver(self, event: str, arguments: dict[str, Any]) -> None:
        if self._keeper.gate is not None:
            getattr(self._keeper.gate, event)(**arguments)
            return
        with suppress(LedgerDown):  # the next event of this kind has the same effect
            await self._tell(event, arguments)

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
