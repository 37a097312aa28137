"""The figures that processes on one ledger in PostgreSQL publish about themselves."""

from collections.abc import Sequence
from typing import Final

from ledger.courier import Courier, Cursor
from ledger.post import GATE, ProcessRow

_PUBLISH: Final = "UPDATE processes SET figures = %s WHERE id = %s"

_READ: Final = """
    SELECT processes.id, extract(epoch FROM since)::float8, version, coalesce(processes.figures, '{}'),
        holder IS NOT NULL, extract(epoch FROM clock_timestamp())::float8
    FROM processes LEFT JOIN roles ON name = %s AND holder = processes.id
    WHERE dead_at IS NULL ORDER BY since, processes.id
"""


class SqlProcesses:
    """`ledger.post.ProcessTable` in PostgreSQL."""

    def __init__(self, courier: Courier, process: str) -> None:
        self._courier = courier
        self.process = process

    async def exchange(self, figures: str) -> Sequence[ProcessRow]:
        def publish(cursor: Cursor) -> Sequence[ProcessRow]:
            cursor.execute(_PUBLISH, (figures, self.process))
            return [ProcessRow(*row) for row in cursor.execute(_READ, (GATE,)).fetchall()]

        return await self._courier.run(publish, durable=False)
