"""The gate in each process that shares a ledger. The holder of the role keeps the one real gate (`keeper.py`).

A process writes a row for each lease that it requests, the holder grants it, and further writes say what happens to the
creation. That a creation is sent is written in the same transaction as its record in the ledger, before its first byte.
So after the end of a process, the holder and its successors know every creation that may have been sent.

For estimates, each process has a policy that mirrors the holder's latest figures.
"""

import asyncio
import json
import math
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final, NoReturn, Protocol

import structlog

from admission.durations import Durations
from admission.estimates import Estimates
from admission.policy import Policy
from admission.snapshot import GateStats
from cluster.keeper import Keeper
from cluster.lease import RemoteLease
from cluster.mirror import mirrored, read_figures
from cluster.waits import Tell, Waits
from concurrency import Gate, Lease
from errors import LedgerDown
from ledger import Ledger
from ledger.records import LeaseRecord, LeaseState
from loop_thread import wait_for_event
from stepping import until_granted

_PAUSE: Final = 0.5
_POLL_PAUSE: Final = 0.05
"""Seconds between two looks for grants, with notices, and without them while leases wait."""

_FIGURES_PAUSE: Final = 0.5
"""Seconds between two readings of the figures."""

log = structlog.get_logger("gate")


class GrantTable(Protocol):
    """The rows, for a process: `ledger.leases.LeaseTable`."""

    @property
    def notices_work(self) -> bool: ...

    def on_granted(self, callback: Callable[[], object]) -> None: ...

    async def granted(self) -> set[str]: ...

    async def answered(self, ago: float) -> None: ...

    async def figures(self) -> tuple[str, float] | None: ...


class Beside(Protocol):
    """A gate whose rows have the same holder (`cluster.calls.RemoteMeteredGate`)."""

    @property
    def has_waits(self) -> bool: ...

    def grant(self, ids: Collection[str]) -> None: ...

    async def report(self) -> None:
        """Report what the holder must know. Raises LedgerDown."""

    def mirror(self, figures: Mapping[str, Any], age: float) -> None:
        """The holder published these figures so many seconds ago, as parsed JSON."""


class RemoteGate(Estimates, Waits[RemoteLease]):
    """What `concurrency.Gate` is for a process alone. Only the holder admits; the policy here mirrors its figures.

    Run `run` beside it."""

    _keeper: Keeper

    def __init__(
        self,
        table: GrantTable,
        ledger: Ledger,
        keeper: Keeper,
        *,
        tell: Tell,
        concurrent_limit: int,
        requests_per_minute: int,
        interactive_reserve: float = 0.0,
    ) -> None:
        policy = Policy(
            concurrent_limit=concurrent_limit,
            requests_per_minute=requests_per_minute,
            interactive_reserve=interactive_reserve,
            durations=Durations(),
        )
        super().__init__(policy, _now)
        Waits.__init__(self, ledger, keeper, tell)
        self.beside: list[Beside] = []
        """Further gates of this process, whose rows have the same holder."""
        self._interactive_reserve = interactive_reserve
        self._table = table
        self._seen: GateStats | None = None
        self._refused: set[tuple[str, str | None]] = set()
        self._answered = -math.inf
        self._doubt_until = -math.inf
        self._news = asyncio.Event()

    async def run(self) -> NoReturn:
        """Look for grants and figures until this is cancelled."""
        self._table.on_granted(self._news.set)
        figures_at = 0.0
        while True:
            self._news.clear()
            try:
                if self.has_waits:
                    self.grant(await self._table.granted())
                if (began := _now()) >= figures_at:
                    if (published := await self._table.figures()) is not None:
                        self._mirror(*published)
                    figures_at = began + max(_FIGURES_PAUSE, 20 * (_now() - began))
                await self._report_answers()
                for each in self.beside:
                    await each.report()
            except LedgerDown as down:
                log.debug("grants_not_read", reason=str(down))
            except Exception:  # this task must go on
                log.exception("gate_failed")
            pause = _POLL_PAUSE if self.has_waits and not self._table.notices_work else _PAUSE
            await wait_for_event(self._news, pause)

    # ── Leases

    async def acquire(self, caller: str, **limits: Any) -> Lease:
        return await until_granted(self.request(caller, **limits))

    def request(self, caller: str, **limits: Any) -> Lease:
        if self._closed is not None:
            raise self._closed()
        lease = RemoteLease(self, LeaseRecord(id=secrets.token_hex(12), caller=caller, **limits))
        self._leases[lease.record.id] = lease
        return lease

    def adopt(
        self,
        caller: str,
        *,
        lost: float | None = None,
        expected: str | None = None,
        is_pending: bool = False,  # noqa: ARG002 - only the holder has such leases
        **limits: Any,
    ) -> Lease:
        state = LeaseState.ANSWERED if lost is None else LeaseState.LOST
        record = LeaseRecord(
            id=secrets.token_hex(12), caller=caller, state=state, reference=expected, sent_ago=lost, **limits
        )
        lease = RemoteLease(self, record, sent=_now() - (lost or 0.0))
        lease.granted.set_result(None)
        self._hold(lease)
        if lost is not None:
            self.note_doubt()
        return lease

    def grant(self, ids: Collection[str]) -> None:
        super().grant(ids)
        for each in self.beside:
            each.grant(ids)

    @property
    def has_waits(self) -> bool:
        return super().has_waits or any(each.has_waits for each in self.beside)

    # ── Events

    def pause(self, caller: str, seconds: float) -> None:
        self._send("pause", caller=caller, seconds=seconds)

    def slow_down(self, caller: str) -> None:
        self._send("slow_down", caller=caller)

    def refuse(self, caller: str, batch: str | None) -> bool:
        self._send("refuse", caller=caller, batch=batch)
        was_refused = (caller, batch) in self._refused
        self._refused.add((caller, batch))
        return was_refused

    def proceed(self, caller: str, *, exhausted_for: float = 0.0) -> None:
        self._refused = {each for each in self._refused if each[0] != caller}
        seen = self._seen
        if exhausted_for > 0 or seen is None or caller in self._restricted:
            self._send("proceed", caller=caller, exhausted_for=exhausted_for)

    def upstream_answered(self, sent: float) -> None:
        self._answered = max(self._answered, sent)
        if _now() < self._doubt_until:
            self._news.set()

    def note_doubt(self) -> None:
        """A creation is in doubt, so the holder must learn which requests are answered."""
        self._doubt_until = _now() + 10 * _FIGURES_PAUSE

    async def _report_answers(self) -> None:
        now = _now()
        if now >= self._doubt_until or self._answered == -math.inf:
            return
        answered, self._answered = self._answered, -math.inf
        await self._table.answered(now - answered)

    # ── Limits, which every process has, and places, which only the holder counts

    def configure(self, **limits: Any) -> None:
        self._policy.configure(_now(), **limits)
        if self._keeper.gate is not None:
            self._keeper.gate.configure(**limits)

    def limit_caller(self, caller: str, **limits: int | None) -> None:
        """Change the own limits of a caller here, and at the gate if this process holds it: each process does it."""
        self._policy.limit_caller(caller, **limits)
        if self._keeper.gate is not None:
            self._keeper.gate.limit_caller(caller, **limits)

    def new_gate(self) -> Gate:
        """A gate with the present limits, for the keeper."""
        gate = Gate(**self._limits, interactive_reserve=self._interactive_reserve, durations=self.durations)
        for caller, limits in self._policy.queue.limits.items():
            gate.limit_caller(caller, **asdict(limits))
        return gate

    def set_semaphore(self, semaphore: str, limit: int) -> None:
        self._policy.semaphores.set_limit(semaphore, limit)

    def remove_semaphore(self, semaphore: str) -> None:
        self._policy.semaphores.remove(semaphore)

    def count(self, spent: Iterable[float], caller: str | None = None) -> None:
        """The rows say which places earlier processes have taken."""

    def expect(self, name: str, seconds: float) -> None:
        """As `count`."""

    # ── Figures

    def statistics(self) -> GateStats:
        if self._keeper.gate is not None:
            return self._keeper.gate.statistics()
        own = super().statistics()
        return replace(
            self._seen or own,
            concurrent_limit=own.concurrent_limit,
            requests_per_minute_limit=own.requests_per_minute_limit,
        )

    @property
    def _limits(self) -> dict[str, Any]:
        policy = self._policy
        return {"concurrent_limit": policy.concurrent_limit, "requests_per_minute": policy.window.limit}

    @property
    def _restricted(self) -> set[str]:
        return set(self._policy.queue.callers)

    def _mirror(self, text: str, age: float) -> None:
        """Make the policy from the figures that the holder published so many seconds ago."""
        figures = json.loads(text)
        for each in self.beside:
            each.mirror(figures, age)
        self._seen, snapshot = read_figures(figures, now=_now() - age)
        if self._seen.stall.in_doubt:
            self.note_doubt()
        named = {each.id: each.limit for each in self.semaphores()}
        self._policy = mirrored(
            replace(snapshot, **self._limits), named, self.durations, self._policy.queue.limits
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
