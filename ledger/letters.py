"""Letters between the processes that share a ledger in PostgreSQL: rows that the recipient deletes when it reads.

They do not wait for the disk. A letter that is lost costs its sender another attempt.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Final

from ledger.courier import Courier, Cursor
from ledger.post import GATE, Letter

_SEND: Final = """
    INSERT INTO letters (id, sender, recipient, kind, body, reply_to)
    SELECT %(id)s, %(sender)s, %(recipient)s, %(kind)s, %(body)s, %(reply_to)s
    WHERE NOT EXISTS (SELECT FROM processes WHERE id = %(recipient)s AND dead_at IS NOT NULL)
"""

_TAKE: Final = """
    WITH mine AS (
        SELECT unnest(%(recipients)s::text[]) AS recipient
        EXCEPT
        SELECT %(gate)s WHERE NOT EXISTS (SELECT FROM roles WHERE name = %(gate)s AND holder = %(process)s)
    )
    DELETE FROM letters WHERE recipient IN (SELECT recipient FROM mine)
        OR created_at < clock_timestamp() - interval '10 minutes'
    RETURNING id, sender, recipient, kind, body, reply_to,
        created_at > clock_timestamp() - interval '1 minute', created_at
"""
"""A process that has lost the gate and does not know it yet leaves the letters to the next holder."""

_FIELDS: Final = ("id", "sender", "recipient", "kind", "body", "reply_to")

_OTHERS: Final = "SELECT id FROM processes WHERE dead_at IS NULL AND id <> %s ORDER BY id"


class SqlPost:
    """`ledger.post.Post` in PostgreSQL."""

    def __init__(self, courier: Courier, process: str) -> None:
        self._courier = courier
        self.process = process

    @property
    def notices_work(self) -> bool:
        return self._courier.notices_work

    async def send(self, letter: Letter) -> bool:
        def insert(cursor: Cursor) -> bool:
            self._courier.notify(_topic(letter.recipient))
            return cursor.execute(_SEND, asdict(letter)).rowcount == 1

        return await self._courier.run(insert, durable=False)

    async def take(self, recipients: Collection[str]) -> Sequence[Letter]:
        def delete(cursor: Cursor) -> Sequence[Letter]:
            rows = cursor.execute(
                _TAKE, {"recipients": list(recipients), "gate": GATE, "process": self.process}
            ).fetchall()
            rows.sort(key=itemgetter(-1))
            return [Letter(**dict(zip(_FIELDS, row[:6], strict=True))) for row in rows if row[6]]

        return await self._courier.run(delete, durable=False)

    async def others(self) -> Sequence[str]:
        return await self._courier.run(
            lambda cursor: [each for (each,) in cursor.execute(_OTHERS, (self.process,))], durable=False
        )

    def listen(self, recipient: str, callback: Callable[[], object]) -> None:
        self._courier.listen(_topic(recipient), callback)

    def unlisten(self, recipient: str) -> None:
        self._courier.unlisten(_topic(recipient))


def _topic(recipient: str) -> str:
    return f"letters {recipient}"
