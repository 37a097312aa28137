"""The holder of the role `gate`: it runs the one gate of all processes that share a ledger.

The others ask by rows (`remote.py`). The keeper looks for changed rows, reports them to an ordinary `concurrency.Gate`,
and marks the rows that the gate admits as granted. A process that gets the role makes a new gate from all rows. So the
end of a holder is for the gate what a restart is for a single process.

The gate counts a place until 60 seconds after the keeper has *seen* the answer, which is never too early.

A row of a dead process is *left*. The process that continues its work writes a new row for the same attempt, which
takes over slot and place, and the room of a boot that it may wait for. Until then it keeps them for as long as its
prediction may run. The place of a creation
without an answer stays until the upstream has answered a request that was sent later.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn, Protocol

import structlog

from admission.sliding_window import WINDOW
from cluster.call_keeper import CallKeeper
from cluster.ended import EndedRows
from cluster.mirror import figures_of
from concurrency import Gate, Lease
from contract.callers import KEY_PREFIX, pays_with_server_token
from errors import LedgerDown
from ledger.leases import ROLE_TTL, LeaseRow, Look
from ledger.records import LeaseState
from loop_thread import wait_for_event

_PAUSE: Final = 0.25
_POLL_PAUSE: Final = 0.05
"""Seconds between two looks, with and without notices."""

_RETRY_PAUSE: Final = 0.5

_FIGURES_PAUSE: Final = 0.5
"""Seconds between two publications of figures, or fifty times as long as one takes."""

_FORGET_PAUSE: Final = 1.0
"""Seconds between two deletions of rows that count no more."""

_CERTAIN_FOR: Final = 0.9 * ROLE_TTL
"""Seconds from the start of a look in which no other process can take the role. Clocks may differ a little."""

_KEPT: Final = WINDOW + 1.0
"""Seconds for which a row is kept after its end, for the next holder."""

_SEARCHED_WITHIN: Final = 60.0
"""Seconds within which a process that continues left work on the server's token searches for a creation without an
answer."""

_LONGEST_RUN: Final = 3620.0
"""The most seconds that a prediction may run if its row does not say so."""

log = structlog.get_logger("gate")


class RoleTable(Protocol):
    """The rows, for the holder: `ledger.leases.LeaseTable`."""

    @property
    def notices_work(self) -> bool: ...

    def on_change(self, callback: Callable[[], object]) -> None: ...

    async def look(self, term: int | None) -> Look | None: ...

    async def grant(self, term: int, ids: Sequence[str]) -> bool: ...

    async def forget(self, ids: Sequence[str]) -> None: ...

    async def give_up(self) -> None: ...

    async def publish(self, term: int, figures: str) -> None: ...


@dataclass(slots=True)
class _Entry:
    """A row whose lease holds a slot, or waits for one."""

    lease: Lease
    caller: str
    reference: str | None
    state: int
    runs_for: float = _LONGEST_RUN
    searched_by: float = 0.0
    ends_at: float | None = None
    """If its process is dead: until when a search for its creation may begin, and when its prediction has ended at the
    latest."""


async def all_known(_: Collection[str]) -> None:
    """The `on_keys` of a process that already knows all keys."""


class Keeper:
    """Keeps the gate while this process holds the role. `new_gate` makes one with the present limits. `on_held` is
    awaited with the gate before it admits anything, and `on_lost` is called when this process keeps it no more.
    `on_keys` is awaited with the ids of named keys before their first work here is admitted. `calls` keeps the gate of
    calls."""

    def __init__(
        self,
        table: RoleTable,
        new_gate: Callable[[], Gate],
        *,
        on_held: Callable[[Gate], Awaitable[object]],
        on_lost: Callable[[], object],
        on_keys: Callable[[Collection[str]], Awaitable[object]] = all_known,
        calls: CallKeeper,
    ) -> None:
        self._table = table
        self._new_gate = new_gate
        self._on_held = on_held
        self._on_lost = on_lost
        self._on_keys = on_keys
        self._calls = calls
        self._keys: set[str] = set()
        """Those of which it has seen work."""
        self.gate: Gate | None = None
        """The gate of all processes while this one holds the role."""
        self._term: int | None = None
        self._certain_until = 0.0
        self._entries: dict[str, _Entry] = {}
        self._left: dict[str, str] = {}
        """The row of each attempt that a dead process has left."""
        self._admitted: list[str] = []
        self._ended = EndedRows()
        self._forget_at = self._publish_at = 0.0
        self._stopping = False
        self._news = asyncio.Event()

    async def run(self) -> NoReturn:
        """Take the role whenever it is free, until this is cancelled."""
        self._table.on_change(self._news.set)
        while True:
            self._news.clear()
            pause = _PAUSE if self._table.notices_work else _POLL_PAUSE
            try:
                await self._turn()
            except LedgerDown as down:
                log.debug("gate_not_kept", reason=str(down))
                self._drop()
                pause = _RETRY_PAUSE
            except Exception:  # this task must go on
                log.exception("gate_failed")
                self._drop()
                pause = _RETRY_PAUSE
            await wait_for_event(self._news, pause)

    @property
    def is_certain(self) -> bool:
        """Whether this process certainly holds the role. One whose loop was blocked may have lost it, and not know."""
        return self.gate is not None and _now() < self._certain_until

    async def hand_over(self) -> None:
        """Give the role to another process, and never take it again."""
        self._stopping = True
        if self.gate is not None:
            self._drop()
            with suppress(LedgerDown):
                await self._table.give_up()

    async def _turn(self) -> None:
        if self._stopping:
            return
        began = _now()
        look = await self._table.look(self._term)
        if self._stopping or look is None:
            self._drop()
            if look is not None:  # it got the role while it was to hand it over
                await self._table.give_up()
            return
        if look.term != self._term or self.gate is None:
            self._drop()
            await self._begin(look)
            if self._stopping:  # the role was handed over meanwhile
                self._on_lost()
                self._calls.drop()
                return
        self._certain_until = began + _CERTAIN_FOR
        await self._meet(look.rows)
        if self._stopping:
            return
        for row in sorted((each for each in look.rows if each.account is None), key=_order):
            self._see(row)
        self._calls.see((each for each in look.rows if each.account is not None), began)
        assert self.gate is not None  # noqa: S101 - it has begun
        if look.answered_ago is not None:
            # Counted from before the look: a request that seemed to be sent later would end doubts too early.
            self.gate.upstream_answered(began - look.answered_ago)
        self._release_left()
        await asyncio.sleep(0)  # the gate admits in the next tick
        await asyncio.sleep(0)
        await self._grant(look.term)
        await self._forget()
        await self._publish(look.term)

    async def _begin(self, look: Look) -> None:
        """Begin with a new gate. All rows follow."""
        gate = self._new_gate()
        if look.settled_ago < WINDOW:  # a process that died meanwhile may have sent as many
            gate.count([look.settled_ago] * gate.statistics().requests_per_minute_limit)
        self._term, self.gate = look.term, gate
        await self._on_held(gate)
        await self._calls.begin(gate, look.settled_ago, self._news.set)
        log.info("gate_held", term=look.term, rows=len(look.rows))

    async def _meet(self, rows: Sequence[LeaseRow]) -> None:
        """Learn the limits of keys that this holder has not met: another process may just have made them."""
        if new := {row.caller for row in rows if row.caller.startswith(KEY_PREFIX)} - self._keys:
            await self._on_keys(new)
            self._keys |= new

    def _drop(self) -> None:
        """Forget the gate, with all that it has admitted and that is not granted yet."""
        if self.gate is not None:
            self.gate.close(lambda: LedgerDown("Another process holds the gate."))
            self.gate = None
            self._on_lost()
        self._calls.drop()
        self._term = None
        self._entries.clear()
        self._left.clear()
        self._admitted.clear()
        self._ended.clear()
        self._keys.clear()

    # ── Rows

    def _see(self, row: LeaseRow) -> None:
        if row.id in self._ended:  # a burial has changed it
            return
        entry = self._entries.get(row.id)
        if entry is None:
            entry = self._enter(row)
            if entry is None:
                return
        self._advance(entry, row)
        if row.process is None and row.id in self._entries:
            self._leave(entry, row)

    def _enter(self, row: LeaseRow) -> _Entry | None:
        """Follow a row that is new to this holder. Returns None if its lease has ended."""
        gate = self.gate
        assert gate is not None  # noqa: S101 - rows are seen while there is one
        limits: dict[str, Any] = {"batch": row.batch, "max_concurrent": row.max_concurrent}
        limits |= {"semaphore": row.semaphore, "boots": None if row.started else row.boots}
        continued = self._continued(row)
        if row.state >= LeaseState.OVER and continued is None:
            counts = row.granted and row.answered_ago is not None
            if counts:
                gate.count([row.answered_ago or 0.0], row.caller)
            self._end(row.id, kept=_KEPT - (row.answered_ago or 0.0) if counts else 0.0)
            return None
        if row.state == LeaseState.WANTED and not row.granted:
            entry = _Entry(gate.request(row.caller, **limits), row.caller, row.reference, row.state)
            entry.lease.granted.add_done_callback(partial(self._on_granted, row.id))
        elif continued is not None:
            entry = continued
        else:
            entry = _Entry(self._adopted(gate, row, limits), row.caller, row.reference, row.state)
        self._entries[row.id] = entry
        return entry

    @staticmethod
    def _adopted(gate: Gate, row: LeaseRow, limits: dict[str, Any]) -> Lease:
        if row.state == LeaseState.ANSWERED:
            if row.granted:  # otherwise the row of an earlier process has counted its place
                gate.count([row.answered_ago or 0.0], row.caller)
            return gate.adopt(row.caller, **limits)
        if row.state == LeaseState.LOST:
            return gate.adopt(row.caller, lost=row.sent_ago or 0.0, **limits)
        return gate.adopt(row.caller, is_pending=True, **limits)

    def _continued(self, row: LeaseRow) -> _Entry | None:
        """The entry of the left row for the same attempt, which this one takes over, even if it is over already. Both
        rows are kept: the next holder sees the left one again, and must not wait for a process that continues it."""
        if row.granted or row.reference is None or (left := self._left.pop(row.reference, None)) is None:
            return None
        entry = self._entries.pop(left)
        self._end(left, kept=_KEPT)
        return entry

    def _advance(self, entry: _Entry, row: LeaseRow) -> None:
        """Report to the gate what has happened to a lease since it was last seen."""
        lease, before = entry.lease, entry.state
        entry.state = max(before, row.state)
        entry.reference = row.reference or entry.reference
        entry.runs_for = row.runs_for or entry.runs_for
        if row.state == LeaseState.GONE:
            lease.not_sent()
            lease.release()
            self._end(row.id)
            return
        if before < LeaseState.SENT <= row.state:
            with suppress(RuntimeError):  # adopted ones count as sent
                lease.sent(row.sent_ago or 0.0)
        if row.state == LeaseState.LOST:
            lease.lost(row.sent_ago)
        elif row.state >= LeaseState.ANSWERED:
            lease.answered()
        if row.started:
            lease.started()
        if row.state == LeaseState.OVER:
            lease.release()
            self._end(row.id, kept=_KEPT)

    def _leave(self, entry: _Entry, row: LeaseRow) -> None:
        """Its process is dead."""
        now = _now()
        if entry.state < LeaseState.ANSWERED:
            entry.lease.lost(row.left_ago)
            entry.searched_by = now + _SEARCHED_WITHIN if pays_with_server_token(entry.caller) else now
        else:
            entry.ends_at = now - (row.answered_ago or 0.0) + entry.runs_for
        if entry.reference is not None:
            self._left[entry.reference] = row.id

    def _release_left(self) -> None:
        """Free the places of left creations that cannot arrive any more, and the slots of left predictions that must
        have ended."""
        now = _now()
        for row_id in list(self._left.values()):
            entry = self._entries[row_id]
            if entry.lease.is_in_doubt and not entry.lease.may_arrive and entry.searched_by <= now:
                entry.lease.answered()
                entry.ends_at = now + entry.runs_for
            if entry.ends_at is not None and entry.ends_at <= now:
                self._release(row_id)

    def _release(self, row_id: str) -> None:
        entry = self._entries[row_id]
        self._left.pop(entry.reference or "", None)
        entry.lease.release()
        self._end(row_id, kept=_KEPT)

    def _end(self, row_id: str, *, kept: float = 0.0) -> None:
        self._entries.pop(row_id, None)
        self._ended.add(row_id, kept)

    # ── What the gate admits

    def _on_granted(self, row_id: str, granted: asyncio.Future[None]) -> None:
        if not granted.cancelled() and granted.exception() is None and row_id in self._entries:
            self._admitted.append(row_id)
            self._news.set()

    async def _grant(self, term: int) -> None:
        admitted, self._admitted = self._admitted + self._calls.take_admitted(), []
        if admitted and not await self._table.grant(term, admitted):
            self._drop()

    async def _forget(self) -> None:
        now = _now()
        if now < self._forget_at:
            return
        self._forget_at = now + _FORGET_PAUSE
        if old := self._ended.take_old() + self._calls.take_old():
            await self._table.forget(old)

    async def _publish(self, term: int) -> None:
        now = _now()
        if self.gate is None or now < self._publish_at:
            return
        text = figures_of(self.gate, self._calls.figures())
        self._publish_at = now + max(_FIGURES_PAUSE, 50 * (_now() - now))
        await self._table.publish(term, text)


def _order(row: LeaseRow) -> tuple[bool, bool, float]:
    """Left rows come first, so that others can take them over. Waiting ones come last, the oldest first."""
    return row.process is not None, row.state == LeaseState.WANTED, -row.wanted_ago


def _now() -> float:
    return asyncio.get_running_loop().time()
