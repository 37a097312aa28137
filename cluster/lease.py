"""A lease of the gate that all processes on a ledger share, in the process that requested it."""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from admission.snapshot import GateStats
from concurrency import Lease
from ledger import Ledger
from ledger.claims import ClaimSent
from ledger.records import LeaseRecord, LeaseState


class Rows(Protocol):
    """What a lease needs of its gate (`cluster.waits.Waits`)."""

    @property
    def is_closed(self) -> bool:
        """Whether the process stops."""

    def write(self, record: LeaseRecord) -> None:
        """Write the row of a lease soon."""

    def forget(self, lease: Any) -> None:
        """The lease was released."""

    def lose_grant(self, lease: Any) -> None:
        """The grant of the lease was lost, so it waits for another one."""


class CreationRows(Rows, Protocol):
    """The same of a gate of creations (`cluster.remote.RemoteGate`)."""

    def note_doubt(self) -> None:
        """A creation is in doubt."""

    def statistics(self) -> GateStats: ...


G = TypeVar("G", bound=Rows)


class RowLease(ABC, Generic[G]):
    """A lease that is a row."""

    def __init__(self, gate: G, record: LeaseRecord, sent: float | None = None) -> None:
        self._gate = gate
        self._sent = sent
        self.record = record
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._write()

    @property
    def has_slot(self) -> bool:
        """Whether it was granted, and not released."""
        return self.granted.done() and not self.granted.cancelled() and self.granted.exception() is None

    async def persist(self, ledger: Ledger, reference: str, runs_for: float | None = None, /) -> None:
        """Wait until the ledger has on disk that this lease is used. If the grant was lost with the database, wait for
        another one. Raises LedgerDown."""
        while not await ledger.claim(ClaimSent(self.record.id, reference, runs_for)):
            self._gate.lose_grant(self)
            self.granted = asyncio.get_running_loop().create_future()
            self._write()
            await self.granted
        self.record = replace(self.record, state=LeaseState.SENT, reference=reference)

    def sent(self, ago: float = 0.0) -> None:
        if self.record.state != LeaseState.SENT or self._sent is not None:
            raise RuntimeError("a lease is for one request, and its ledger must know of it")
        self._sent = _now() - ago

    def not_sent(self) -> None:
        if self.record.state == LeaseState.SENT:
            self._sent = None

    @abstractmethod
    def release(self) -> None:
        """Free all that it holds, or end its wait."""

    def _advance(self, state: LeaseState, **facts: Any) -> None:
        self.record = replace(self.record, state=state, **facts)
        self._write()

    def _write(self) -> None:
        self._gate.write(self.record)


class RemoteLease(RowLease[CreationRows], Lease):
    """A lease of the gate of creations."""

    def lost(self, ago: float | None = None) -> None:
        if self.record.state == LeaseState.SENT and self._sent is not None:
            self._advance(LeaseState.LOST, sent_ago=_now() - self._sent if ago is None else ago)
            self._gate.note_doubt()

    @property
    def is_in_doubt(self) -> bool:
        return self.record.state == LeaseState.LOST

    def answered(self) -> None:
        if self.record.state in {LeaseState.SENT, LeaseState.LOST} and self._sent is not None:
            self._advance(LeaseState.ANSWERED)

    def started(self) -> None:
        is_running = LeaseState.SENT <= self.record.state < LeaseState.OVER and self._sent is not None
        if is_running and self.record.boots is not None and not self.record.started:
            self.record = replace(self.record, started=True)
            self._write()

    def window_has_room(self) -> bool:
        seen = self._gate.statistics()
        return seen.current_rate_per_minute < seen.requests_per_minute_limit

    def release(self) -> None:
        if self.record.state >= LeaseState.OVER:
            return
        was_sent = self.record.state > LeaseState.SENT or self._sent is not None
        self._advance(LeaseState.OVER if was_sent else LeaseState.GONE)
        self._gate.forget(self)

    def __exit__(self, *exception: object) -> None:
        # A process that stops leaves its predictions, with their slots, to the one that continues its work.
        is_left = self._gate.is_closed and exception[0] is asyncio.CancelledError
        if not is_left or self._sent is None:
            self.release()


def _now() -> float:
    return asyncio.get_running_loop().time()
