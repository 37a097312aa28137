"""The shares of processes in one window (`admission.shares`), in PostgreSQL.

All processes change the table under the lock of one row, so none counts the places of others while they change. A dead
process holds its places until its last requests no longer count.
"""

from functools import partial
from typing import Final

from admission.shares import Answer, Holding, settle
from admission.sliding_window import WINDOW
from ledger.courier import Courier, Cursor
from ledger.timelines import is_settled

_LOCK: Final = """
    INSERT INTO shares (process, places, wants) VALUES ('', 0, 0) ON CONFLICT (process) DO UPDATE SET places = 0
"""
"""Locks the row that belongs to no process."""

_FORGET: Final = """
    DELETE FROM shares WHERE process <> '' AND NOT EXISTS (
        SELECT FROM processes WHERE id = process
            AND (dead_at IS NULL OR clock_timestamp() < until + make_interval(secs => %s))
    )
"""

_HOLDINGS: Final = """
    SELECT process, places, wants, dead_at IS NULL FROM shares JOIN processes ON id = process
"""

_WRITE: Final = """
    INSERT INTO shares (process, places, wants) VALUES (%s, %s, %s)
    ON CONFLICT (process) DO UPDATE SET places = excluded.places, wants = excluded.wants
"""


class PostgresShares:
    """The share of `process` in a window of `limit` places. A request that this process has sent arrives within
    `arrival` seconds or never, also if the process dies meanwhile."""

    def __init__(self, courier: Courier, process: str, *, limit: int, arrival: float) -> None:
        self._courier = courier
        self._process = process
        self._limit = limit
        self._counts_for = WINDOW + arrival

    async def settle(self, *, keep: int, wants: int) -> Answer:
        """See `cluster.shares.ShareTable`."""
        return await self._courier.run(partial(self._settle, keep, wants))

    def _settle(self, keep: int, wants: int, cursor: Cursor) -> Answer:
        cursor.execute(_LOCK)
        cursor.execute(_FORGET, (self._counts_for,))
        holdings = {
            process: Holding(places, wants, is_alive)
            for process, places, wants, is_alive in cursor.execute(_HOLDINGS)
        }
        held = holdings.pop(self._process, Holding(0)).places
        if is_settled(cursor):
            answer = settle(list(holdings.values()), held, keep=keep, wants=wants, limit=self._limit)
        else:  # what others hold may be lost, and so may what this one holds
            answer = Answer(keep, self._limit)
        cursor.execute(_WRITE, (self._process, answer.places, max(0, keep + wants - answer.places)))
        return answer
