"""The tokens that any process has proven, in PostgreSQL: their callers' ids, which are keyed hashes, and turns.

A lost row costs one more check, so these transactions do not wait for the disk.
"""

from typing import Final

from ledger.courier import Courier, Cursor

_FIND: Final = """
    SELECT turn, extract(epoch FROM until - clock_timestamp())::float FROM proven_tokens
    WHERE caller_id = %s AND until > clock_timestamp()
"""

_KEEP: Final = """
    INSERT INTO proven_tokens (caller_id, turn, until)
    VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (caller_id) DO UPDATE SET turn = excluded.turn, until = excluded.until
"""

_FORGET: Final = "DELETE FROM proven_tokens WHERE until < clock_timestamp()"

_DROP: Final = "DELETE FROM proven_tokens WHERE caller_id = %s"


class SqlTokens:
    """`providers.token_checks.SharedTokens` in PostgreSQL."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier

    async def find(self, caller_id: str) -> tuple[str, float] | None:
        def found(cursor: Cursor) -> tuple[str, float] | None:
            row = cursor.execute(_FIND, (caller_id,)).fetchone()
            return None if row is None else (row[0], row[1])

        return await self._courier.run(found, durable=False)

    async def keep(self, caller_id: str, turn: str, seconds: float) -> None:
        def keep(cursor: Cursor) -> None:
            cursor.execute(_FORGET)
            cursor.execute(_KEEP, (caller_id, turn, seconds))

        await self._courier.run(keep, durable=False)

    async def drop(self, caller_id: str) -> None:
        await self._courier.run(lambda cursor: cursor.execute(_DROP, (caller_id,)) and None, durable=False)
