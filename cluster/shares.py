"""Keeps the share of this process in the window of requests that create nothing (polls, cancellations, uploads).

Many such requests are made, and it matters little which process goes first. So each process has a gate of its own with
a limit that it changes together with the database (`admission.shares`). While the database is away, it goes on with
one block of what it holds.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog

from admission.shares import Answer, Share, block_of
from admission.sliding_window import WINDOW
from concurrency import Gate
from errors import LedgerDown

_PAUSE: Final = 1.0
"""Seconds between two looks at the gate."""

_LOOK_PAUSE: Final = 0.25
"""Seconds between two looks whether this process is alive."""

_LONGEST_PAUSE: Final = 5.0
"""Seconds after which a process looks whether another one is short of places."""

log = structlog.get_logger("cluster")


class ShareTable(Protocol):
    """The shares of all processes."""

    async def settle(self, *, keep: int, wants: int) -> Answer:
        """Settle the share of this process: it keeps at most so many of its places and wants so many more. Raises
        LedgerDown; then it is not known what this process holds beyond `keep`."""


class SharedWindow:
    """The share of this process in a window of `limit` places a minute, kept by `gate`. Once others may have counted
    this process as dead (`is_alive`), it uses one block, which no other process takes."""

    def __init__(
        self, gate: Gate, table: ShareTable, *, limit: int, is_alive: Callable[[], bool] = lambda: True
    ) -> None:
        self._gate = gate
        self._table = table
        self._share = Share(limit)
        self._is_alive = is_alive
        self._block = block_of(limit)
        gate.allot(0)

    async def run(self) -> None:
        """Keep the share until this is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lower_in_time())
            await self._settle()

    async def _lower_in_time(self) -> None:
        """Look whether this process is alive, also while the database does not answer."""
        while True:
            self._allot()
            await asyncio.sleep(_LOOK_PAUSE)

    def _allot(self) -> None:
        allowed = self._share.allowed
        self._gate.allot(allowed if self._is_alive() else min(allowed, self._block))

    async def _settle(self) -> None:
        clock = asyncio.get_running_loop().time
        settled_at = -_LONGEST_PAUSE
        while True:
            figures = self._gate.statistics()
            before = self._share.allowed
            demand = self._share.demand(
                clock(), used=figures.current_rate_per_minute, waiting=figures.waiting
            )
            # Lowered before the database gives the places to another process, and raised after it gave them to this.
            self._allot()
            is_due = clock() >= settled_at + _LONGEST_PAUSE
            if is_due or demand.wants or demand.places > self._share.allowed or before > self._share.allowed:
                try:
                    answer = await self._table.settle(keep=demand.places, wants=demand.wants)
                    self._share.settled(answer)
                    self._allot()
                    settled_at = clock()
                except LedgerDown as down:
                    log.debug("share_not_settled", reason=str(down))
                except Exception:  # this task must go on
                    log.exception("share_failed")
            paused_at = clock()
            await asyncio.sleep(_PAUSE)
            if clock() >= paused_at + WINDOW:
                # This process was stopped, and may count as dead. Timers are due in order, so this comes early.
                self._share.drop()

    async def aclose(self) -> None:
        """Give back all places that are not used, after `run` has ended. No request can be sent any more."""
        demand = self._share.close(self._gate.statistics().current_rate_per_minute)
        self._gate.allot(0)
        with suppress(LedgerDown):
            await self._table.settle(keep=demand.places, wants=0)
