"""Processes that share a gate by rows in memory, in virtual time: the rules of `ledger.leases` without a database."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from cluster.keeper import Keeper
from cluster.remote import RemoteGate
from concurrency import Gate
from errors import LedgerDown
from ledger.claims import ClaimSent
from ledger.leases import ROLE_TTL, LeaseRow, Look
from ledger.recent import RecentRows
from ledger.records import LeaseRecord, LeaseState


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Row:
    record: LeaseRecord
    process: str | None
    wanted_at: float
    state: int = LeaseState.WANTED
    granted: bool = False
    seen: int = -1
    reference: str | None = None
    runs_for: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    left_at: float | None = None


@dataclass
class Database:
    """The rows, the role, and which processes are dead. While `is_away`, nothing can be read or written. A transaction
    is committed after `latency` seconds, and a look arrives `delay` seconds later."""

    latency: float = 0.002
    delay: float = 0.0
    notices: bool = True
    rows: dict[str, Row] = field(default_factory=dict)
    holder: str | None = None
    until: float = 0.0
    term: int = 0
    answered_at: float | None = None
    figures: tuple[str, float] | None = None
    dead: set[str] = field(default_factory=set)
    is_away: bool = False
    timeline: int = 1
    settled_at: float = -inf
    listeners: dict[str, list[Callable[[], object]]] = field(default_factory=lambda: defaultdict(list))

    def copy(self) -> "Database":
        """The rows and the role, as a standby has them that receives nothing more."""
        rows = {each: replace(row) for each, row in self.rows.items()}
        return replace(self, rows=rows)

    def fail_over(self, standby: "Database", *, settling: float) -> None:
        """Go on with the rows of the standby, in a new timeline that is settled after so many seconds."""
        self.rows, self.holder, self.until = standby.rows, standby.holder, standby.until
        self.term, self.answered_at, self.figures = standby.term, standby.answered_at, standby.figures
        self.timeline += 1
        self.settled_at = now() + settling

    @property
    def is_settled(self) -> bool:
        return now() >= self.settled_at

    async def transaction(self, process: str) -> None:
        await asyncio.sleep(self.latency)
        if self.is_away or process in self.dead:
            raise LedgerDown("away")

    def notify(self, topic: str) -> None:
        if self.notices:
            for each in self.listeners[topic]:
                asyncio.get_running_loop().call_later(self.latency, each)

    def bury(self, process: str) -> None:
        """Mark a process dead, as the burial of `ledger.members` does."""
        self.dead.add(process)
        for row in self.rows.values():
            if row.process == process:
                row.process, row.left_at, row.seen = None, now(), -1
                if row.state == LeaseState.WANTED:
                    row.state = LeaseState.GONE
        if self.holder == process:
            self.holder = None
        self.notify("leases")


class Table:
    """`RoleTable` and `GrantTable` of one process."""

    def __init__(self, database: Database, process: str) -> None:
        self._db = database
        self.process = process

    @property
    def notices_work(self) -> bool:
        return self._db.notices

    def on_granted(self, callback: Callable[[], object]) -> None:
        self._db.listeners[f"granted {self.process}"].append(callback)

    def on_change(self, callback: Callable[[], object]) -> None:
        self._db.listeners["leases"].append(callback)

    async def look(self, term: int | None) -> Look | None:
        await self._db.transaction(self.process)
        db = self._db
        if not db.is_settled:
            return None
        if db.holder not in {None, self.process} and db.until >= now():
            return None
        if db.holder != self.process:
            db.holder, db.term = self.process, db.term + 1
        db.until = now() + ROLE_TTL
        rows = [row for row in db.rows.values() if row.seen != row.state or db.term != term]
        for row in rows:
            row.seen = row.state
        answered = None if db.answered_at is None else now() - db.answered_at
        seen = Look(db.term, [_read(row) for row in rows], answered, now() - db.settled_at)
        await asyncio.sleep(db.delay)
        return seen

    async def grant(self, term: int, ids: Any) -> bool:
        await self._db.transaction(self.process)
        if (self._db.holder, self._db.term) != (self.process, term):
            return False
        for each in ids:
            row = self._db.rows.get(each)
            if row is not None and row.state == LeaseState.WANTED and row.process is not None:
                row.granted = True
                self._db.notify(f"granted {row.process}")
        return True

    async def granted(self) -> set[str]:
        await self._db.transaction(self.process)
        rows = self._db.rows.items()
        return {
            each
            for each, row in rows
            if row.process == self.process and row.granted and row.state == LeaseState.WANTED
        }

    async def forget(self, ids: Any) -> None:
        await self._db.transaction(self.process)
        for each in ids:
            self._db.rows.pop(each, None)

    async def give_up(self) -> None:
        await self._db.transaction(self.process)
        if self._db.holder == self.process:
            self._db.holder = None

    async def answered(self, ago: float) -> None:
        await self._db.transaction(self.process)
        self._db.answered_at = max(self._db.answered_at or 0.0, now() - ago)

    async def publish(self, term: int, figures: str) -> None:
        await self._db.transaction(self.process)
        if (self._db.holder, self._db.term) == (self.process, term):
            self._db.figures = figures, now()

    async def figures(self) -> tuple[str, float] | None:
        await self._db.transaction(self.process)
        found = self._db.figures
        return None if found is None else (found[0], now() - found[1])


class Rows:
    """The part of a ledger that a gate uses: it writes leases."""

    def __init__(self, database: Database, process: str) -> None:
        self._db = database
        self.process = process
        self._pending: dict[str, LeaseRecord] = {}
        self._recent = RecentRows(now)
        self._timeline = database.timeline

    async def come_back(self, after: float) -> None:
        """Write again what a new timeline may lack, after so many seconds."""
        await asyncio.sleep(after)
        self._timeline = self._db.timeline
        again = {each.id: each for each in self._recent.rows().values() if isinstance(each, LeaseRecord)}
        self._pending = {**again, **self._pending}
        await self.flush()

    def upsert(self, record: LeaseRecord) -> None:
        self._pending[record.id] = record

    async def flush(self) -> None:
        await self.claim(None)

    async def claim(self, claim: ClaimSent | None) -> bool:
        pending, self._pending = self._pending, {}
        try:
            if claim and not self._db.is_settled:
                raise LedgerDown("failed over")
            await self._db.transaction(self.process)
            if self._timeline != self._db.timeline:
                raise LedgerDown("failed over")
        except LedgerDown:
            self._pending = {**pending, **self._pending}
            raise
        for record in pending.values():
            self._write(record)
        self._recent.note({(LeaseRecord, (each.id,)): each for each in pending.values()})
        if pending or claim:
            self._db.notify("leases")
        row = None if claim is None else self._db.rows.get(claim.lease_id)
        if claim is None or row is None or row.process != self.process or not row.granted:
            return False
        if row.state not in {LeaseState.WANTED, LeaseState.SENT}:
            return False
        row.state, row.reference, row.sent_at = LeaseState.SENT, claim.reference, now()
        row.runs_for = claim.runs_for
        self._recent.note({}, [claim])
        return True

    def _write(self, record: LeaseRecord) -> None:
        row = self._db.rows.setdefault(record.id, Row(record, self.process, now()))
        if row.process != self.process:
            return
        row.state = max(row.state, record.state)
        row.reference = record.reference or row.reference
        if record.sent_ago is not None:
            row.sent_at = now() - record.sent_ago
        if record.state >= LeaseState.ANSWERED and row.answered_at is None:
            row.answered_at = now()


class Process:
    """A process with its gate and its keeper, from `start` to `kill`."""

    def __init__(self, database: Database, name: str, **limits: Any) -> None:
        self.name = name
        self.database = database
        table = Table(database, name)
        self.gates: list[Gate] = []
        """The gate of all processes while this one keeps it."""
        self.ledger = Rows(database, name)
        self.keeper = Keeper(
            table, lambda: self.gate.new_gate(), on_held=self._on_held, on_lost=self.gates.clear
        )
        self.gate = RemoteGate(table, self.ledger, self.keeper, tell=self._tell, **limits)  # type: ignore[arg-type]
        self.others: list[Process] = []
        self.tasks = [asyncio.create_task(each) for each in (self.keeper.run(), self.gate.run())]

    async def _on_held(self, gate: Gate) -> None:
        self.gates.append(gate)

    async def _tell(self, event: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(self.database.latency)
        for each in self.others:
            if each.keeper.gate is not None:
                getattr(each.keeper.gate, event)(**arguments)

    def start(self, work: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def kill(self) -> None:
        """End everything at once. Nothing is written any more."""
        self.database.dead.add(self.name)
        for each in self.tasks:
            each.cancel()
        await asyncio.wait(self.tasks)


def _read(row: Row) -> LeaseRow:
    def ago(moment: float | None) -> float | None:
        return None if moment is None else now() - moment

    record = row.record
    return LeaseRow(
        id=record.id, process=row.process, caller=record.caller, batch=record.batch,
        max_concurrent=record.max_concurrent, semaphore=record.semaphore, state=row.state, granted=row.granted,
        reference=row.reference, runs_for=row.runs_for, wanted_ago=now() - row.wanted_at, sent_ago=ago(row.sent_at),
        answered_ago=ago(row.answered_at), left_ago=ago(row.left_at),
    )  # fmt: skip


def group(database: Database, *names: str, **limits: Any) -> list[Process]:
    """Processes with these names and equal limits, in a running loop."""
    processes = [Process(database, name, **limits) for name in names]
    for each in processes:
        each.others = [other for other in processes if other is not each]
    return processes
