"""The shares of processes in memory: `cluster.shares.ShareTable` for each process, by the loop's clock."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from admission.shares import Answer, Holding, settle
from errors import LedgerDown


@dataclass
class Row:
    places: int = 0
    wants: int = 0
    until: float = float("inf")
    """When a dead process stops to count."""


class MemoryShares:
    """The table. `fate` says of each settlement whether it is made, and whether its answer arrives. A dead process
    counts for `counts_for` seconds."""

    def __init__(
        self,
        limit: int,
        *,
        counts_for: float = 80.0,
        fate: Callable[[], tuple[bool, bool]] = lambda: (True, True),
    ) -> None:
        self.limit = limit
        self.fate = fate
        self._counts_for = counts_for
        self.rows: dict[int, Row] = {}
        self.cut_off: set[int] = set()
        """Processes that do not reach the table."""

    def of(self, process: int) -> "ProcessShares":
        return ProcessShares(self, process)

    def kill(self, process: int) -> None:
        if process in self.rows:
            self.rows[process].until = asyncio.get_running_loop().time() + self._counts_for

    def settle(self, process: int, keep: int, wants: int) -> Answer:
        now = asyncio.get_running_loop().time()
        self.rows = {each: row for each, row in self.rows.items() if row.until > now}
        mine = self.rows.setdefault(process, Row())
        others = [
            Holding(row.places, row.wants, row.until == float("inf"))
            for each, row in self.rows.items()
            if each != process
        ]
        answer = settle(others, mine.places, keep=keep, wants=wants, limit=self.limit)
        mine.places, mine.wants = answer.places, max(0, keep + wants - answer.places)
        return answer


@dataclass
class ProcessShares:
    table: MemoryShares
    process: int

    async def settle(self, *, keep: int, wants: int) -> Answer:
        is_made, is_answered = self.table.fate()
        await asyncio.sleep(0.01)
        is_made = is_made and self.process not in self.table.cut_off
        answer = self.table.settle(self.process, keep, wants) if is_made else None
        await asyncio.sleep(0.01)
        if answer is None or not is_answered:
            raise LedgerDown("lost")
        return answer
