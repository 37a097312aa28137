"""The queries of the ledger in SQL for calls that lost their connection."""

from collections.abc import Sequence
from operator import eq
from typing import Final

from ledger.access_records import LostCallRecord
from ledger.sql_reader import SqlReader, conditions_of
from ledger.tables import LOST_CALLS

_L: Final = LOST_CALLS.c

_MAY_BE_LEFT: Final = """
    SELECT EXISTS (
        SELECT FROM generations JOIN processes ON processes.id = generations.process
        WHERE ended_at IS NULL AND caller_id = %s AND body_fingerprint = %s AND (
            generations.taken_at IS NOT NULL OR processes.id <> %s AND (
                dead_at IS NOT NULL OR beat_at < clock_timestamp() - make_interval(secs => %s)
            )
        )
    )
"""


class SqlLostCalls(SqlReader):
    """The part of `ledger.Queries` about lost calls, on a database."""

    def lost_calls(
        self, caller_id: str | None = None, body_fingerprint: str | None = None
    ) -> Sequence[LostCallRecord]:
        conditions = conditions_of((_L.caller_id, eq, caller_id), (_L.body_fingerprint, eq, body_fingerprint))
        return self._records(LostCallRecord, *conditions)

    def may_be_left(
        self, caller_id: str, body_fingerprint: str, *, process: str | None, seconds: float
    ) -> bool:
        if process is None:
            return False
        with self._reading() as connection:
            found = connection.exec_driver_sql(_MAY_BE_LEFT, (caller_id, body_fingerprint, process, seconds))
            return bool(found.scalar_one())
