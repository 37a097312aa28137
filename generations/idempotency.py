"""Idempotency keys: requests of one caller with the same key and body get the same work, also after a restart.

The first request with a key claims it. Requests with the same key, even at the same instant, wait until the first is
accepted, and get its work. The claim stays in memory until the work has ended; the ledger keeps the key for a day.

If several processes share the ledger, a key is claimed there too, before its work is accepted: of two processes, one
inserts the row, and the other waits for the work in it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from errors import IdempotencyConflict
from generations.archive import Archive
from generations.submission import BodyFingerprint
from ledger import Ledger, Queries
from ledger.claims import ClaimKey
from ledger.records import KeyRecord

KEPT_FOR: Final = 86_400.0
"""Seconds for which a key is kept, or longer if its work has not ended."""

LONGEST_CLAIM: Final = 30.0
"""Seconds that a request waits for another process to accept work or to give up its key. A process that dies gives up
its keys sooner."""

_PAUSE: Final = 0.05
"""Seconds between two looks at the key of another process."""

OwnedKey = tuple[str, str]
"""A caller's id and one of its keys."""


@dataclass(slots=True)
class _Claim:
    record: KeyRecord
    is_settled: bool = False
    decided: asyncio.Event = field(default_factory=asyncio.Event)


class IdempotencyKeys:
    """The keys of all callers. `clock` returns Unix time."""

    def __init__(self, *, ledger: Ledger, archive: Archive, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._archive = archive
        self._clock = clock
        self._claims: dict[OwnedKey, _Claim] = {}
        self.key_of: dict[str, OwnedKey] = {}

    async def claim(self, caller_id: str, key: str, fingerprint: BodyFingerprint, work_id: str) -> str | None:
        """The id of the work with this key. None if the key was free and is now claimed for the new work `work_id`:
        then call `settle` or `abandon`.

        Raises IdempotencyConflict if the body differs, and LedgerDown if the ledger cannot be read or written."""
        owned = caller_id, key
        while (other := self._claims.get(owned)) is not None:
            await other.decided.wait()
            if other.is_settled:
                return _same(other.record, fingerprint)
        claim = _Claim(
            KeyRecord(caller_id, key, fingerprint.current, work_id, self._clock(), self._ledger.process)
        )
        self._claims[owned] = claim
        try:
            earlier = await self._claim_in_ledger(claim.record)
        except BaseException:
            self._drop(owned, claim)
            raise
        if earlier is None:
            return None
        self._drop(owned, claim)
        return _same(earlier, fingerprint)

    def settle(self, caller_id: str, key: str) -> None:
        """Assign the new work to its claimed key."""
        owned = caller_id, key
        claim = self._claims[owned]
        claim.is_settled = True
        self.key_of[claim.record.work_id] = owned
        claim.decided.set()
        if not self._is_shared:
            self._ledger.upsert(claim.record)

    def abandon(self, caller_id: str, key: str, work_id: str) -> None:
        """Release a key whose work was not accepted. The next waiting request claims it."""
        owned = caller_id, key
        claim = self._claims.get(owned)
        if claim is not None and claim.record.work_id != work_id:
            claim = None  # the work has ended meanwhile, and another request has the key
        if claim is None or claim.is_settled or self._is_shared:
            self._ledger.delete(KeyRecord, caller_id, key, work_id)
        self.key_of.pop(work_id, None)
        if claim is not None:
            claim.is_settled = False
            self._drop(owned, claim)

    def release(self, work_id: str) -> None:
        """Forget the claim of work that has ended. From now on its key is looked up in the ledger."""
        if (owned := self.key_of.pop(work_id, None)) is not None:
            self._claims.pop(owned, None)

    async def delete_expired(self) -> None:
        """Delete expired keys, unless their work is unfinished. Raises LedgerDown."""
        before = self._clock() - KEPT_FOR
        for record in await self._archive.read(lambda queries: queries.expired_keys(before)):
            if (record.caller_id, record.key) not in self._claims:
                self._delete(record)

    @property
    def _is_shared(self) -> bool:
        return self._ledger.process is not None

    async def _claim_in_ledger(self, record: KeyRecord) -> KeyRecord | None:
        """The record of earlier work with this key. None if the key is free; in a shared ledger it then belongs to this
        record."""
        clock = asyncio.get_running_loop().time
        until = clock() + LONGEST_CLAIM
        while True:
            earlier = await self._archive.read(partial(_record_of, record))
            if earlier is None or await self._has_expired(earlier):
                if not self._is_shared:
                    return None
                if earlier is not None:
                    self._delete(earlier)
                if await self._insert(record):
                    return None
            elif (
                not self._is_shared
                or clock() >= until
                or await self._archive.read(partial(_has_work, earlier))
            ):
                return earlier
            else:
                await asyncio.sleep(_PAUSE)

    async def _insert(self, record: KeyRecord) -> bool:
        """Insert the key if no other process has. A row without work would keep the key from everyone, so it is deleted
        if the outcome is not known."""
        claiming = asyncio.ensure_future(self._ledger.claim(ClaimKey(record)))
        try:
            return await asyncio.shield(claiming)
        except BaseException:

            def undo(_: object) -> None:
                if not claiming.cancelled():
                    claiming.exception()  # retrieved, so that asyncio does not log it if the caller has left
                self._delete(record)

            claiming.add_done_callback(undo)  # a deletion before its end would come first
            raise

    async def _has_expired(self, record: KeyRecord) -> bool:
        if record.created_at + KEPT_FOR > self._clock():
            return False
        return not await self._archive.read(lambda queries: queries.is_unfinished(record.work_id))

    def _delete(self, record: KeyRecord) -> None:
        self._ledger.delete(KeyRecord, record.caller_id, record.key, record.work_id)

    def _drop(self, owned: OwnedKey, claim: _Claim) -> None:
        if self._claims.get(owned) is claim:
            del self._claims[owned]
        claim.decided.set()


def _record_of(record: KeyRecord, queries: Queries) -> KeyRecord | None:
    return queries.key(record.caller_id, record.key)


def _has_work(record: KeyRecord, queries: Queries) -> bool:
    """Whether the work of this key is on record. Another process may still be accepting it."""
    return (queries.generation(record.work_id) or queries.batch(record.work_id)) is not None


def _same(earlier: KeyRecord, fingerprint: BodyFingerprint) -> str:
    """The id of the earlier work. Raises IdempotencyConflict if its body had another fingerprint."""
    if not fingerprint.matches(earlier.fingerprint):
        raise IdempotencyConflict(
            "This Idempotency-Key was used with a different body. Use a new key for each request."
        )
    return earlier.work_id
