"""This process among those that share a ledger in PostgreSQL: what it runs beside its generations."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

from admission.metered.snapshot import DayCounts
from cluster.call_keeper import CallKeeper, no_counts
from cluster.calls import EVENTS, RemoteMeteredGate
from cluster.figures import AllFigures, ProcessFigures
from cluster.keeper import Keeper, all_known
from cluster.letters import Letters
from cluster.remote import RemoteGate
from cluster.shares import SharedWindow
from cluster.waits import Holder
from concurrency import Gate
from errors import LedgerDown
from ledger.courier import Courier
from ledger.leases import LeaseTable
from ledger.letters import SqlPost
from ledger.post import GATE
from ledger.processes import SqlProcesses
from ledger.shares import PostgresShares
from ledger.tokens import SqlTokens
from ledger.writer import SqlLedger

_LONGEST_REQUEST: Final = 10.0
"""Seconds within which a request that was sent arrives or never does: the longest timeout but that of an upload, which
does not arrive without its sender. So long, and a minute, the share of a dead process is kept from others."""

_EVENTS: Final = {"pause", "slow_down", "refuse", "proceed"}
"""The events of callers that the holder of the gate must know, by the names of the methods of `Gate`."""


class Permits(Protocol):
    """The named semaphores, for the holder of the gate: `generations.shared.SharedSemaphores`."""

    async def take(self, gate: Gate) -> None: ...

    def leave(self) -> None: ...


class Group:
    """The gate of all processes, their letters, and this process's part of the window of other requests.

    Make it on the loop. Set `permits`, `figures`, `on_figures` and `on_keys` before `start`. Call that when the ledger
    is open. `limits` are the arguments of `Gate`, and `others` is the gate of requests that create nothing, with its
    limit. `calls` are the arguments of `MeteredGate` for the gate of calls."""

    def __init__(
        self,
        courier: Courier,
        ledger: SqlLedger,
        limits: Mapping[str, Any],
        others: Gate,
        others_limit: int,
        calls: Mapping[str, Any],
    ) -> None:
        process = ledger.process or ""
        self.courier = courier
        self.letters = Letters(SqlPost(courier, process))
        table = LeaseTable(courier, process)
        call_keeper = CallKeeper(
            lambda creations: self.calls.new_gate(creations), count_day=lambda: self.count_day()
        )
        self._keeper = Keeper(
            table,
            self._new_gate,
            on_held=self._take,
            on_lost=self._leave,
            on_keys=lambda keys: self.on_keys(keys),
            calls=call_keeper,
        )
        self.gate = RemoteGate(table, ledger, self._keeper, tell=partial(self._tell, "gate"), **limits)
        self.calls = RemoteMeteredGate(table, ledger, call_keeper, tell=partial(self._tell, "calls"), **calls)
        self.gate.beside.append(self.calls)
        shares = PostgresShares(courier, process, limit=others_limit, arrival=_LONGEST_REQUEST)
        self._window = SharedWindow(others, shares, limit=others_limit, is_alive=ledger.may_send)
        self.tokens = SqlTokens(courier)
        self.permits: Permits | None = None
        self.processes = AllFigures(
            SqlProcesses(courier, process),
            lambda: self.figures(),
            lambda processes: self.on_figures(processes),
        )
        self.figures: Callable[[], Mapping[str, Any]] = dict
        """Makes the figures that this process publishes about itself."""
        self.on_figures: Callable[[Sequence[ProcessFigures]], object] = lambda processes: None
        """Is called with the figures of all processes every two seconds."""
        self.on_keys: Callable[[Collection[str]], Awaitable[object]] = all_known
        """Is awaited with the ids of keys before the gate admits their first work, if this process holds it."""
        self.count_day: Callable[[], Awaitable[DayCounts]] = no_counts
        """Is awaited before the gate of calls admits any, for what earlier processes have sent in the present day."""
        self._running: list[asyncio.Task[Any]] = []
        self.letters.on("gate", partial(self._on_event, self._keeper, _EVENTS))
        self.letters.on("calls", partial(self._on_event, call_keeper, EVENTS))

    @property
    def holds_gate(self) -> bool:
        """Whether this process certainly holds the gate of all."""
        return self._keeper.is_certain

    def start(self) -> None:
        """Run everything until `aclose`."""
        self.courier.start()
        parts = (self._keeper, self.gate, self._window, self.processes)
        self._running = [asyncio.create_task(each.run()) for each in parts]

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something else until `aclose`."""
        self._running.append(asyncio.create_task(work))

    async def hand_over(self) -> None:
        """Let another process keep the gate, since this one stops."""
        await self._keeper.hand_over()

    async def aclose(self) -> None:
        await self.hand_over()
        if self._running:
            running = set(self._running)
            while running:  # a task may be in a wait that ends at the same moment
                for each in running:
                    each.cancel()
                _, running = await asyncio.wait(running, timeout=1.0)
            with suppress(LedgerDown):
                await self._window.aclose()
            await self.courier.aclose()

    def _new_gate(self) -> Gate:
        return self.gate.new_gate()

    async def _take(self, gate: Gate) -> None:
        if self.permits is not None:
            await self.permits.take(gate)

    def _leave(self) -> None:
        if self.permits is not None:
            self.permits.leave()

    async def _tell(self, gate: str, event: str, arguments: Mapping[str, Any]) -> None:
        await self.letters.tell(GATE, gate, [event, arguments])

    @staticmethod
    async def _on_event(keeper: Holder, events: Collection[str], body: Any) -> None:
        """Take one of these events, if this process keeps the gate."""
        event, arguments = body
        if keeper.gate is not None and event in events:
            getattr(keeper.gate, event)(**arguments)
