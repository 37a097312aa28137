"""The part of the holder of the role `gate` that keeps the gate of calls, beside that of creations (`keeper.py`).

Its rows have an `account`. The gate is an ordinary `metering.gate.MeteredGate`. A new holder makes it from the rows, so
a row is kept as long as anything of it counts. What counts in a day is read from the attempts in the ledger instead.

A call ends with its process. Its slot is free at once, and if it has no answer, it is lost: its place, tokens and money
count until a later request of the account is answered, and then as if the call had ended with that answer.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

from admission.metered.accounts import LONGEST_LOST, MONEY_WINDOW
from admission.metered.demand import Demand, TooLarge
from admission.metered.snapshot import DayCounts
from admission.sliding_window import WINDOW
from cluster.call_figures import Figures, figures_of
from cluster.ended import EndedRows
from concurrency import Gate
from errors import LedgerDown
from ledger.leases import LeaseRow
from ledger.records import LeaseRecord, LeaseState
from metering.gate import MeteredGate
from metering.lease import MeteredLease

_KEPT: Final = MONEY_WINDOW + 1.0
"""Seconds for which a row is kept after the end of its call, for the next holder."""

_AGAIN: Final = 1.0
"""Seconds until calls that were too large for a window are tried again. The limits may have changed."""


@dataclass(slots=True)
class _Entry:
    """A row whose lease holds a slot, or waits for one. `lease` is None while it does not even wait."""

    demand: Demand
    lease: MeteredLease | None
    state: int


async def no_counts() -> DayCounts:
    """The `count_day` of a ledger without attempts."""
    return ()


class CallKeeper:
    """Keeps the gate of calls while this process holds the role. `new_gate` makes one with the present limits, beside
    this gate of creations. `count_day` is awaited before it admits anything."""

    def __init__(
        self,
        new_gate: Callable[[Gate], MeteredGate],
        *,
        count_day: Callable[[], Awaitable[DayCounts]] = no_counts,
    ) -> None:
        self._new_gate = new_gate
        self._count_day = count_day
        self.gate: MeteredGate | None = None
        """The gate of all processes while this one holds the role."""
        self._on_admitted: Callable[[], object] = lambda: None
        self._entries: dict[str, _Entry] = {}
        self._idle: dict[str, _Entry] = {}
        """Those that do not even wait: no window has room for them, or commits from before a moment may be lost."""
        self._admitted: list[str] = []
        self._ended = EndedRows()
        self._lost: dict[str, dict[str, float]] = {}
        """The rows of lost calls of each account, and when these were sent."""
        self._begins_at = self._again_at = -math.inf

    async def begin(self, creations: Gate, settled_ago: float, on_admitted: Callable[[], object]) -> None:
        """Begin with a new gate. All rows follow. `on_admitted` is called when there are rows to be granted. Raises
        LedgerDown."""
        self.drop()
        counts = await self._count_day()
        # Limits that change from here on reach this gate: there is no wait until it is `self.gate`.
        gate = self._new_gate(creations)
        for account, model, calls in counts:
            gate.count_day(account, model, calls)
        # A process that died meanwhile may have sent calls whose rows are lost.
        self._begins_at = _now() + WINDOW - settled_ago
        self._on_admitted = on_admitted
        self.gate = gate

    def drop(self) -> None:
        """Forget the gate, with all that it has admitted and that is not granted yet."""
        if self.gate is not None:
            gate, self.gate = self.gate, None
            gate.close(lambda: LedgerDown("Another process holds the gate."))
        for each in (self._entries, self._idle, self._admitted, self._ended, self._lost):
            each.clear()

    def see(self, rows: Iterable[LeaseRow], began: float) -> None:
        """These rows have changed. The look that found them began at this moment."""
        for row in sorted(rows, key=_order):
            if row.id not in self._ended:
                self._see(row, began)
        now = _now()
        if self._idle and now >= max(self._again_at, self._begins_at):
            self._again_at = now + _AGAIN
            idle, self._idle = self._idle, {}
            for row_id, entry in idle.items():
                self._wait(row_id, entry)

    def take_admitted(self) -> list[str]:
        """The rows that are admitted since the last call."""
        admitted, self._admitted = self._admitted, []
        return admitted

    def take_old(self) -> list[str]:
        """The rows that may be deleted now. They are forgotten here."""
        old = self._ended.take_old()
        for account, lost in list(self._lost.items()):
            self._lost[account] = {row_id: sent for row_id, sent in lost.items() if row_id in self._ended}
            if not self._lost[account]:
                del self._lost[account]
        return old

    def figures(self) -> Figures:
        """The figures for all processes, while this one holds the role."""
        return figures_of(self._held, list(self._lost))

    @property
    def _held(self) -> MeteredGate:
        assert self.gate is not None  # noqa: S101 - rows are seen while there is one
        return self.gate

    # ── Rows

    def _see(self, row: LeaseRow, began: float) -> None:
        if row.model is None:  # a request that needs no admission was answered
            self._answered(row, began)
            self._ended.add(row.id, _KEPT - (row.answered_ago or 0.0))
            return
        entry = self._entries.get(row.id)
        if entry is None:
            if row.state >= LeaseState.OVER:
                self._count(row, began)
                return
            entry = self._entries[row.id] = self._enter(row, began)
        self._advance(entry, row, began)

    def _enter(self, row: LeaseRow, began: float) -> _Entry:
        """Follow a row that is new to this holder."""
        demand = demand_of(row)
        if row.state == LeaseState.WANTED and not row.granted:
            entry = _Entry(demand, None, row.state)
            self._wait(row.id, entry)
            return entry
        is_sent = row.state >= LeaseState.SENT
        lease = self._held.adopt(demand, sent_ago=_sent_ago(row, began), is_sent=is_sent, is_in_day=is_sent)
        return _Entry(demand, lease, LeaseState.SENT if is_sent else row.state)

    def _wait(self, row_id: str, entry: _Entry) -> None:
        """Let it wait at the gate, if there can ever be room for it."""
        if _now() < self._begins_at:
            self._idle[row_id] = entry
            return
        try:
            entry.lease = self._held.request(entry.demand)
        except TooLarge:  # its process finds that, too
            self._idle[row_id] = entry
            return
        entry.lease.granted.add_done_callback(partial(self._on_granted, row_id, entry))

    def _count(self, row: LeaseRow, began: float) -> None:
        """Count a call that has ended, which an earlier holder has seen before."""
        if row.state != LeaseState.OVER or row.answered_ago is None:
            self._ended.add(row.id)
            return
        ended_ago = _ended_ago(row)
        self._held.count(
            row.account or "", row.model or "", answered_ago=row.answered_ago, ended_ago=ended_ago,
            tokens=row.tokens or 0, micro_usd=row.micro_usd or 0, caller=row.caller,
        )  # fmt: skip
        self._ended.add(row.id, _KEPT - ended_ago)
        self._answered(row, began)

    def _advance(self, entry: _Entry, row: LeaseRow, began: float) -> None:
        """Report to the gate what has happened to a call since its row was last seen."""
        before, entry.state = entry.state, max(entry.state, row.state)
        lease = entry.lease
        if lease is None:
            if row.state == LeaseState.GONE:
                self._idle.pop(row.id, None)
                self._end(row.id, 0.0)
            return
        if row.state == LeaseState.GONE:
            lease.not_sent()
            lease.release()
            self._end(row.id, 0.0)
            return
        if before < LeaseState.SENT <= row.state:
            lease.sent(_sent_ago(row, began))
        if row.state == LeaseState.LOST or (row.state == LeaseState.SENT and row.process is None):
            self._lose(lease, row)
        elif row.state >= LeaseState.ANSWERED:
            self._report_answer(lease, row, began)
            if row.state == LeaseState.OVER or row.process is None:
                ago = _ended_ago(row)
                lease.settled(row.micro_usd or 0)
                lease.release()
                self._end(row.id, _KEPT - ago)

    def _report_answer(self, lease: MeteredLease, row: LeaseRow, began: float) -> None:
        lease.answered(row.answered_ago or 0.0)
        self._answered(row, began)
        lease.measured(row.tokens or 0)
        if row.started:
            lease.proceed()
        if row.state == LeaseState.ANSWERED and row.micro_usd != lease.demand.micro_usd:
            lease.settled(row.micro_usd or 0)

    def _lose(self, lease: MeteredLease, row: LeaseRow) -> None:
        """A call is lost. That of a dead process may have been sent until its process was certainly dead."""
        sent_ago, lost_ago = row.sent_ago or 0.0, row.ended_ago or 0.0
        if row.state == LeaseState.SENT:
            sent_ago = lost_ago = row.left_ago or 0.0
        lease.lost(sent_ago, lost_ago)
        self._end(row.id, LONGEST_LOST + _KEPT - lost_ago)
        self._lost.setdefault(row.account or "", {})[row.id] = _now() - sent_ago

    def _answered(self, row: LeaseRow, began: float) -> None:
        """A request of an account was answered, so what was lost before was not accepted later."""
        account, ago = row.account or "", row.answered_ago or 0.0
        sent = _now() - _sent_ago(row, began)
        self._held.upstream_answered(account, sent, ago)
        lost = self._lost.get(account, {})
        for row_id in [each for each, moment in lost.items() if moment < sent]:
            del lost[row_id]
            self._ended.add(row_id, _KEPT - ago)

    def _end(self, row_id: str, kept: float) -> None:
        self._entries.pop(row_id, None)
        self._ended.add(row_id, kept)

    def _on_granted(self, row_id: str, entry: _Entry, granted: asyncio.Future[None]) -> None:
        if granted.cancelled():
            return
        error = granted.exception()
        if self._entries.get(row_id) is not entry:
            return
        if error is None:
            self._admitted.append(row_id)
            self._on_admitted()
        else:  # it became too large for a window
            entry.lease = None
            self._idle[row_id] = entry


def demand_of(row: LeaseRow | LeaseRecord) -> Demand:
    """The demand of the call that a row has."""
    return Demand(
        caller=row.caller,
        account=row.account or "",
        model=row.model or "",
        tokens=row.tokens or 0,
        micro_usd=row.micro_usd or 0,
        batch=row.batch,
        max_concurrent=row.max_concurrent,
        semaphore=row.semaphore,
    )


def _sent_ago(row: LeaseRow, began: float) -> float:
    """The seconds since a call was sent, counted from before the look: one that seemed to be sent later would end
    doubts too early."""
    return (row.sent_ago or 0.0) + _now() - began


def _ended_ago(row: LeaseRow) -> float:
    """The seconds since a call has ended: that of a dead process ended with it."""
    return (row.left_ago if row.ended_ago is None else row.ended_ago) or 0.0


def _order(row: LeaseRow) -> tuple[bool, bool, float, float]:
    """Lost calls come first, so that answers can end their doubts, the earliest answers first. Waiting calls come last,
    the oldest first."""
    is_lost = row.state == LeaseState.LOST or (row.state == LeaseState.SENT and row.process is None)
    return not is_lost, row.state == LeaseState.WANTED, -(row.answered_ago or 0.0), -row.wanted_ago


def _now() -> float:
    return asyncio.get_running_loop().time()
