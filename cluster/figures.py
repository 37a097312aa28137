"""The figures of all processes on one ledger. Each publishes its own every two seconds, and reads the others'."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import structlog

from errors import LedgerDown
from ledger.post import ProcessRow, ProcessTable

PAUSE: Final = 2.0
"""Seconds from one exchange to the next."""

log = structlog.get_logger("cluster")

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """The latest figures of a process. It has shared the ledger since the Unix time `since`. `clock_ahead` are the
    seconds by which the clock of its machine is ahead of this one's, None if that is unknown."""

    id: str
    since: float
    version: str
    holds_gate: bool
    figures: Figures
    clock_ahead: float | None = None

    @property
    def host(self) -> str:
        return self.id.rsplit(":", 2)[0]

    @property
    def pid(self) -> int:
        return int(self.id.rsplit(":", 2)[1])


class AllFigures:
    """The figures of all processes, on the loop. `own` makes those of this one, as JSON. `on_read` is called with the
    latest ones of all, after each exchange. `clock` returns this machine's Unix time."""

    def __init__(
        self,
        table: ProcessTable,
        own: Callable[[], Figures],
        on_read: Callable[[Sequence[ProcessFigures]], object] = lambda processes: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._own = own
        self._on_read = on_read
        self._now = clock
        self._latest: Sequence[ProcessFigures] = ()
        self._ahead: float | None = None
        """The seconds by which this machine's clock is ahead of the database's."""

    def all(self) -> Sequence[ProcessFigures]:
        """The processes in the order of their start: this one as it is now, the others at most some seconds ago."""
        return [
            ProcessFigures(each.id, each.since, each.version, each.holds_gate, self._own())
            if each.id == self._table.process
            else each
            for each in self._latest
        ]

    async def run(self) -> NoReturn:
        """Publish and read until it is cancelled."""
        while True:
            try:
                rows = await self._table.exchange(json.dumps({**self._own(), "clock_ahead": self._ahead}))
                now = self._now()
                self._latest = [_read(each, now) for each in rows]
                self._ahead = now - rows[0].read_at if rows else None
                self._on_read(self._latest)
            except LedgerDown as down:
                log.debug("figures_not_exchanged", reason=str(down))
            except Exception:  # this task must go on
                log.exception("figures_failed")
            await asyncio.sleep(PAUSE)


def _read(row: ProcessRow, now: float) -> ProcessFigures:
    figures = json.loads(row.figures)
    theirs = figures.pop("clock_ahead", None)
    ahead = None if theirs is None else theirs - (now - row.read_at)
    return ProcessFigures(row.id, row.since, row.version, row.holds_gate, figures, ahead)
