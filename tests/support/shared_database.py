"""The database of processes that share a gate, in memory and in virtual time: the rules of `ledger.leases` and
`ledger.members`, and its faults."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any

from contract.callers import ADMIN
from errors import LedgerDown
from ledger.records import LeaseRecord, LeaseState
from tests.support.places import WORLD
from tests.support.virtual_time import now

TTL = 5.0
"""Seconds as in `ledger.members`: a process that has not written for so long may be buried."""

PATIENCE = 5.0
"""Seconds until a process gives up a silent connection."""

Done = Callable[[Any, LedgerDown | None], object]


class Buried(LedgerDown):
    """The process was marked dead. It can never write again."""


@dataclass
class Row:
    """A row of `leases`. `granted_at` is not in the real one."""

    record: LeaseRecord
    process: str | None
    wanted_at: float
    state: int = LeaseState.WANTED
    granted: bool = False
    granted_at: float = 0.0
    seen: int = -1
    reference: str | None = None
    runs_for: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None
    left_at: float | None = None
    started: bool = False
    ended_at: float | None = None

    @property
    def waits(self) -> bool:
        return self.state == LeaseState.WANTED and not self.granted


@dataclass
class Member:
    """When a process has written, as `processes` has it."""

    until: float
    beat_at: float
    steady_since: float
    is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation as the ledger has it: its state, the number of its attempt, and the prediction of that attempt."""

    id: str
    caller: str
    batch: str | None
    process: str | None
    version: str | None = None
    state: str = "queued"
    number: int = 0
    prediction: str | None = None
    submitted_at: float = 0.0

    @property
    def reference(self) -> str:
        return f"{self.id}.{self.number}"

    @property
    def is_suspended(self) -> bool:
        return self.process is None and self.state != "ended"

    def of(self, process: str | None) -> "Generation":
        """The same, in another process."""
        return replace(self, process=process)


@dataclass
class Database:
    """The rows, the role, and which processes are dead. A transaction is committed after `latency` seconds, and a look
    arrives `delay` seconds later.

    While it `is_away`, no transaction succeeds. Processes that are `cut_off` learn that after some seconds. The
    next `lost_answers` transactions are committed, and seem to fail. If `notices` is False, processes look for news
    instead; if it `is_deaf`, notices are lost without a sign."""

    latency: float = 0.002
    delay: float = 0.0
    notices: bool = True
    rows: dict[str, Row] = field(default_factory=dict)
    generations: dict[str, Generation] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    holder: str | None = None
    until: float = 0.0
    term: int = 0
    answered_at: float | None = None
    figures: tuple[str, float] | None = None
    day: Counter[tuple[str, str]] = field(default_factory=Counter)
    """The calls that were ever sent, by account and model."""
    dead: set[str] = field(default_factory=set)
    is_away: bool = False
    is_deaf: bool = False
    cut_off: set[str] = field(default_factory=set)
    lost_answers: int = 0
    timeline: int = 1
    settled_at: float = -inf
    starts: int = 0
    started_at: float = -1000.0
    listeners: dict[str, list[Callable[[], object]]] = field(default_factory=lambda: defaultdict(list))
    on_look: Callable[[], object] = lambda: None
    """Called at each look of a holder."""
    on_grant: Callable[[list[Row]], object] = lambda _: None
    """Called with the rows that become granted, in their order."""
    _undo: list[list[Callable[[], object]]] = field(default_factory=list)
    _last: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    # ── Transactions

    async def run(self, process: str, function: Callable[[], Any]) -> Any:
        """Run a transaction of a process that a crash may undo. Raises LedgerDown."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any, error: LedgerDown | None) -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        self.submit(f"{process} courier", process, function, done)
        return await future

    def submit(
        self, connection: str, process: str, function: Callable[[], Any], done: Done, *, durable: bool = False
    ) -> None:
        """Run a transaction of a process, after those before it on the same connection, and call `done` in the present
        context with its result or error. It goes on if the process dies."""
        loop = asyncio.get_running_loop()
        at = self._last[connection] = max(now() + self.latency, self._last[connection])
        work = partial(self._transact, process, function, done, copy_context(), durable)
        loop.call_at(at, work, context=WORLD)

    def _transact(self, process: str, function: Any, done: Done, context: Any, durable: bool) -> None:
        loop = asyncio.get_running_loop()
        if process in self.cut_off:
            loop.call_later(PATIENCE, done, None, LedgerDown("no answer"), context=context)
            return
        result: Any = None
        error: LedgerDown | None = None
        if self.is_away:
            error = LedgerDown("away")
        elif process in self.dead:
            error = Buried("dead")
        else:
            self._undo.append([])
            try:
                result = function()
            except LedgerDown as down:
                error = down
            if durable:  # and all transactions before it
                self._undo.clear()
            if self.lost_answers > 0:
                self.lost_answers -= 1
                error = LedgerDown("no answer")
        loop.call_soon(done, result, error, context=context)

    def undoes(self, undo: Callable[[], object]) -> None:
        """Call this if a crash undoes the present transaction."""
        if self._undo:
            self._undo[-1].append(undo)

    def change(self, row: Row, **values: Any) -> None:
        """Change a row until a crash undoes it."""
        before = {name: getattr(row, name) for name in values}
        self.undoes(lambda: vars(row).update(before))
        vars(row).update(values)

    def hold(self, holder: str | None, until: float, term: int) -> None:
        """Change the role until a crash undoes it."""
        self.undoes(
            partial(vars(self).update, {"holder": self.holder, "until": self.until, "term": self.term})
        )
        self.holder, self.until, self.term = holder, until, term

    def crash(self, lost: int) -> None:
        """Stop, and lose at most so many of the latest transactions that did not wait for the disk."""
        self.is_away = True
        for _ in range(min(lost, len(self._undo))):
            for undo in reversed(self._undo.pop()):
                undo()
        self._undo.clear()

    def restart(self) -> None:
        """Be back after a crash. All connections are new."""
        self.is_away = False
        self.starts += 1
        self.started_at = now()

    def copy(self) -> "Database":
        """The rows and the role, as a standby has them that receives no more changes."""
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

    def notify(self, topic: str) -> None:
        if self.notices and not self.is_deaf:
            for each in self.listeners[topic]:
                asyncio.get_running_loop().call_later(self.latency, each, context=WORLD)

    # ── Processes

    def beat(self, process: str) -> None:
        """The process has written."""
        member = self.members.get(process)
        if member is None:
            self.members[process] = Member(now() + TTL, now(), now())
            return
        if now() >= member.beat_at + TTL / 2:
            member.steady_since = now()
        member.beat_at, member.until = now(), now() + TTL

    def leave(self, process: str) -> None:
        """A process stops, and says so."""
        self.dead.add(process)
        self.members[process].until = min(self.members[process].until, now())

    def bury_overdue(self, heir: str) -> bool:
        """Bury all processes that are overdue for this one, and give it their work. Returns whether there was one."""
        mine = self.members[heir]
        is_steady = now() < mine.beat_at + TTL / 2 and now() > mine.steady_since + TTL
        found = [
            name
            for name, each in self.members.items()
            if name != heir and not each.is_taken
            if name in self.dead or (is_steady and now() > max(each.until, self.started_at + 2 * TTL))
        ]
        for name in found:
            self.bury(name, heir)
        return bool(found)

    def bury(self, process: str, heir: str | None = None) -> None:
        """Mark a process dead, and give its work to this one, as the burial of `ledger.members` does."""
        self._undo.clear()
        self.dead.add(process)
        member = self.members.get(process)
        until = now()
        if member is not None:
            member.is_taken, until = True, min(member.until, now())
        for row in self.rows.values():
            if row.process == process and row.state == LeaseState.WANTED:
                row.state = LeaseState.GONE
            elif row.process == process and row.state != LeaseState.GONE:
                row.process, row.left_at, row.seen = None, until, -1
        for each in self.generations.values():
            if each.process == process and each.state != "ended":
                self.generations[each.id] = each.of(heir if each.caller == ADMIN else None)
        if self.holder == process:
            self.holder = None
        self.notify("leases")
