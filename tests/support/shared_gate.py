"""Processes that share a gate by rows in memory, in virtual time."""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from admission.metered.limits import MeteredLimits
from cluster.call_keeper import CallKeeper
from cluster.calls import RemoteMeteredGate
from cluster.keeper import Keeper
from cluster.remote import RemoteGate
from concurrency import Gate
from errors import LedgerDown
from ledger.claims import ClaimSent, ClaimSuspended
from ledger.leases import ROLE_TTL, LeaseRow, Look
from ledger.recent import RecentRows
from ledger.records import LeaseRecord, LeaseState
from metering.gate import MeteredGate
from tests.support.places import Place
from tests.support.shared_database import TTL, Buried, Database, Generation, Row
from tests.support.virtual_time import now

_MARGIN = 0.1 * TTL
"""Seconds before the end of its TTL in which a process sends no request."""

_HEARTBEAT = TTL / 5


class Table:
    """`RoleTable` and `GrantTable` of one process."""

    def __init__(self, database: Database, process: str) -> None:
        self._db = database
        self.process = process
        self._connection = 0
        self._connection_of_look = 0, 0

    @property
    def notices_work(self) -> bool:
        return self._db.notices

    def on_granted(self, callback: Callable[[], object]) -> None:
        self._db.listeners[f"granted {self.process}"].append(callback)

    def on_change(self, callback: Callable[[], object]) -> None:
        self._db.listeners["leases"].append(callback)

    async def look(self, term: int | None) -> Look | None:
        seen: Look | None = await self._run(lambda: self._look(term))
        await asyncio.sleep(self._db.delay)
        return seen

    def _look(self, term: int | None) -> Look | None:
        db = self._db
        present = db.starts, self._connection
        before, self._connection_of_look = self._connection_of_look, present
        if not db.is_settled or (db.holder not in {None, self.process} and db.until >= now()):
            return None
        is_same = db.holder == self.process and before == present
        db.hold(self.process, now() + ROLE_TTL, db.term + (not is_same))
        rows = [row for row in db.rows.values() if row.seen != row.state or db.term != term]
        for row in rows:
            db.change(row, seen=row.state)
        db.on_look()
        answered = None if db.answered_at is None else now() - db.answered_at
        return Look(db.term, [_read(row) for row in rows], answered, now() - db.settled_at)

    async def grant(self, term: int, ids: Any) -> bool:
        return bool(await self._run(lambda: self._grant(term, ids)))

    def _grant(self, term: int, ids: Any) -> bool:
        db = self._db
        if (db.holder, db.term) != (self.process, term):
            return False
        found = [row for each in ids if (row := db.rows.get(each)) is not None]
        rows = [row for row in found if row.state == LeaseState.WANTED and row.process is not None]
        for row in rows:
            db.change(row, granted=True, granted_at=now())
            db.notify(f"granted {row.process}")
        db.on_grant(rows)
        return True

    async def granted(self) -> set[str]:
        def granted() -> set[str]:
            rows = self._db.rows.items()
            return {
                each
                for each, row in rows
                if row.process == self.process and row.granted and row.state == LeaseState.WANTED
            }

        found: set[str] = await self._run(granted)
        return found

    async def forget(self, ids: Any) -> None:
        def forget() -> None:
            for each in ids:
                if (row := self._db.rows.pop(each, None)) is not None:
                    self._db.undoes(lambda each=each, row=row: self._db.rows.setdefault(each, row))  # type: ignore[misc]

        await self._run(forget)

    async def give_up(self) -> None:
        def give_up() -> None:
            if self._db.holder == self.process:
                self._db.hold(None, self._db.until, self._db.term)

        await self._run(give_up)

    async def answered(self, ago: float) -> None:
        sent = now() - ago

        def answered() -> None:
            self._db.answered_at = max(self._db.answered_at or 0.0, sent)

        await self._run(answered)

    async def account_answered(self, account: str, ago: float) -> None:
        sent, name = now() - ago, f"answer {secrets.token_hex(6)}"

        def answered() -> None:
            record = LeaseRecord(id=name, caller="", account=account)
            row = Row(record, self.process, now(), LeaseState.OVER, sent_at=sent, answered_at=now())
            row.ended_at = now()
            self._db.rows[name] = row
            self._db.undoes(lambda: self._db.rows.pop(name, None))
            self._db.notify("leases")

        await self._run(answered)

    async def publish(self, term: int, figures: str) -> None:
        def publish() -> None:
            if (self._db.holder, self._db.term) == (self.process, term):
                self._db.figures = figures, now()

        await self._run(publish)

    async def figures(self) -> tuple[str, float] | None:
        found = await self._run(lambda: self._db.figures)
        return None if found is None else (found[0], now() - found[1])

    async def _run(self, function: Callable[[], Any]) -> Any:
        try:
            return await self._db.run(self.process, function)
        except LedgerDown:
            self._connection += 1
            raise


class Rows:
    """The part of a ledger that a gate uses. Its writer goes on in its own `place` while the loop is blocked."""

    def __init__(self, database: Database, process: str) -> None:
        self._db = database
        self.process = process
        self.place = Place()
        self.fenced_until = 0.0
        self.on_buried: Callable[[], object] = lambda: None
        self._pending: dict[str, Any] = {}
        self._handed_over: dict[str, Any] = {}
        self._writing: dict[str, Any] = {}
        self._waiting: list[tuple[Any, asyncio.Future[bool]]] = []
        self._is_writing = self._is_closed = False
        self._recent = RecentRows(now)
        self._timeline = database.timeline
        database.beat(process)
        self._call(self._beat)

    def upsert(self, record: LeaseRecord | Generation) -> None:
        self._pending[record.id] = record

    async def come_back(self, after: float) -> None:
        """Write again what a new timeline may lack, after so many seconds."""
        await asyncio.sleep(after)
        self._timeline = self._db.timeline
        again = {each.id: each for each in self._recent.rows().values() if isinstance(each, LeaseRecord)}
        self._handed_over = {**again, **self._writing, **self._handed_over}
        await self.flush()

    async def flush(self) -> None:
        await self.claim(None)

    async def claim(self, claim: ClaimSent | ClaimSuspended | None) -> bool:
        if self._is_closed:
            raise LedgerDown("closed")
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._handed_over |= self._pending
        self._pending = {}
        self._waiting.append((claim, future))
        self._call(self._write)
        return await future

    def close(self) -> None:
        self._is_closed = True
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(LedgerDown("closed"))

    def may_send(self) -> bool:
        return now() < self.fenced_until

    # ── The writer

    def _call(self, function: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_soon(function, context=self.place.context)

    def _beat(self) -> None:
        if not self._is_closed:
            asyncio.get_running_loop().call_later(_HEARTBEAT, self._beat)
            self._write()

    def _write(self) -> None:
        if self._is_writing or self._is_closed:
            return
        self._is_writing = True
        changes = self._writing = self._handed_over
        self._handed_over = {}
        waiting, self._waiting = self._waiting, []
        began = now()

        def done(made: Any, error: LedgerDown | None) -> None:
            self._is_writing, self._writing = False, {}
            if error is None:
                self.fenced_until = began + TTL - _MARGIN
            else:
                self._handed_over = {**changes, **self._handed_over}
            for index, (_, future) in enumerate(waiting):
                if not future.done():
                    future.set_result(made[index]) if error is None else future.set_exception(error)
            if isinstance(error, Buried):
                self.on_buried()
            elif self._waiting:
                self._write()

        work = [claim for claim, _ in waiting]
        self._db.submit(self.process, self.process, lambda: self._commit(changes, work), done, durable=True)

    def _commit(self, changes: dict[str, Any], claims: list[Any]) -> list[bool]:
        if self._timeline != self._db.timeline or (any(claims) and not self._db.is_settled):
            raise LedgerDown("failed over")
        self._db.beat(self.process)
        leases: dict[Any, Any] = {
            (LeaseRecord, (each.id,)): each for each in changes.values() if isinstance(each, LeaseRecord)
        }
        self._recent.note(leases)
        for record in changes.values():
            if isinstance(record, Generation):
                self._db.generations[record.id] = record
            else:
                self._write_lease(record)
        if leases or any(claims):
            self._db.notify("leases")
        return [self._make(each) for each in claims]

    def _make(self, claim: Any) -> bool:
        if isinstance(claim, ClaimSuspended):
            found = self._db.generations[claim.work_id]
            if found.is_suspended:
                self._db.generations[found.id] = found.of(self.process)
            return found.is_suspended
        row = None if claim is None else self._db.rows.get(claim.lease_id)
        if row is None or row.process != self.process or not row.granted:
            return False
        if row.state not in {LeaseState.WANTED, LeaseState.SENT}:
            return False
        row.state, row.reference, row.sent_at = LeaseState.SENT, claim.reference, now()
        row.runs_for = claim.runs_for
        if row.record.account is not None and row.record.model is not None:
            self._db.day[row.record.account, row.record.model] += 1
        self._recent.note({}, [claim])
        return True

    def _write_lease(self, record: LeaseRecord) -> None:
        row = self._db.rows.setdefault(record.id, Row(record, self.process, now()))
        if row.process != self.process:
            return
        row.state = max(row.state, record.state)
        row.reference = record.reference or row.reference
        if record.started and not row.started:
            row.started, row.seen = True, -1
        if (record.tokens, record.micro_usd) != (row.record.tokens, row.record.micro_usd):
            row.record = replace(row.record, tokens=record.tokens, micro_usd=record.micro_usd)
            row.seen = -1
        is_lost_call = record.account is not None and record.state == LeaseState.LOST
        if row.ended_at is None and (record.state == LeaseState.OVER or is_lost_call):
            row.ended_at = now()
        if record.sent_ago is not None:
            row.sent_at = now() - record.sent_ago
        if record.state >= LeaseState.ANSWERED and row.answered_at is None:
            row.answered_at = now()


def without_calls(**how: Any) -> CallKeeper:
    """Keeps a gate of calls at which none waits."""
    return CallKeeper(lambda _: MeteredGate(concurrent_limit=1, limits=MeteredLimits()), **how)


class Process:
    """A process with its gate and its keeper, from `start` to `kill`. Its loop is at its `place`. With limits of
    `calls`, it has a gate of calls, too."""

    def __init__(
        self, database: Database, name: str, calls: Mapping[str, Any] | None = None, **limits: Any
    ) -> None:
        self.name = name
        self.database = database
        self.place = Place()
        table = Table(database, name)
        self.gates: list[Gate] = []
        """The gate of all processes while this one keeps it."""
        self.ledger = Rows(database, name)
        self.call_keeper = (
            without_calls()
            if calls is None
            else CallKeeper(lambda creations: self.calls.new_gate(creations), count_day=self._day)
        )
        self.keeper = Keeper(
            table,
            lambda: self.gate.new_gate(),
            on_held=self._on_held,
            on_lost=self.gates.clear,
            calls=self.call_keeper,
        )
        self.gate = RemoteGate(
            table, self.ledger, self.keeper, tell=partial(self._tell, "gate"), **limits  # type: ignore[arg-type]
        )  # fmt: skip
        if calls is not None:
            tell = partial(self._tell, "calls")
            self.calls = RemoteMeteredGate(
                table, self.ledger, self.call_keeper, tell=tell, **calls  # type: ignore[arg-type]
            )  # fmt: skip
            self.gate.beside.append(self.calls)
        self.others: list[Process] = []
        self.tasks: list[asyncio.Task[Any]] = []
        for each in (self.keeper.run(), self.gate.run()):
            self.start(each)

    async def _on_held(self, gate: Gate) -> None:
        self.gates.append(gate)

    async def _tell(self, gate: str, event: str, arguments: dict[str, Any]) -> None:
        await asyncio.sleep(self.database.latency)
        for each in self.others:
            asyncio.get_running_loop().call_soon(
                each.receive, gate, event, arguments, context=each.place.context
            )

    def receive(self, gate: str, event: str, arguments: dict[str, Any]) -> None:
        """Take an event, as the holder of this gate: `gate` or `calls`."""
        keeper = self.keeper if gate == "gate" else self.call_keeper
        if keeper.gate is not None:
            getattr(keeper.gate, event)(**arguments)

    async def _day(self) -> list[tuple[str, str, int]]:
        """The calls of the day as the ledger has them."""
        found: list[tuple[str, str, int]] = await self.database.run(
            self.name, lambda: [(*key, calls) for key, calls in self.database.day.items()]
        )
        return found

    def start(self, work: Any) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.create_task(work, context=self.place.context))
        return self.tasks[-1]

    async def kill(self) -> None:
        """End everything at once. Nothing is written any more."""
        self.database.dead.add(self.name)
        self.ledger.close()
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
        answered_ago=ago(row.answered_at), left_ago=ago(row.left_at), boots=record.boots, started=row.started,
        account=record.account, model=record.model, tokens=record.tokens, micro_usd=record.micro_usd,
        ended_ago=ago(row.ended_at),
    )  # fmt: skip


def group(database: Database, *names: str, **limits: Any) -> list[Process]:
    """Processes with these names and equal limits, in a running loop."""
    processes = [Process(database, name, **limits) for name in names]
    for each in processes:
        each.others = [other for other in processes if other is not each]
    return processes
