"""Idempotency keys: requests of one caller with the same key and body get the same work, also after a restart.

The first request with a key claims it. Requests with the same key, even at the same instant, wait until the first is
accepted, and get its work. The claim stays in memory until the work has ended; the ledger keeps the key for a day.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from errors import IdempotencyConflict
from generations.archive import Archive
from generations.submission import BodyFingerprint
from ledger import Ledger
from ledger.records import KeyRecord

KEPT_FOR: Final = 86_400.0
"""Seconds for which a key is kept, or longer if its work has not ended."""

OwnedKey = tuple[str, str]
"""A caller's id and one of its keys."""


@dataclass(slots=True)
class _Claim:
    fingerprint: BodyFingerprint
    work_id: str | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)


class IdempotencyKeys:
    """The keys of all callers. `clock` returns Unix time."""

    def __init__(self, *, ledger: Ledger, archive: Archive, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._archive = archive
        self._clock = clock
        self._claims: dict[OwnedKey, _Claim] = {}
        self.key_of: dict[str, OwnedKey] = {}

    async def claim(self, caller_id: str, key: str, fingerprint: BodyFingerprint) -> str | None:
        """The id of the work with this key. None if the key was free and is now claimed: then call `settle`
        or `abandon`.

        Raises IdempotencyConflict if the body differs, and LedgerDown if the ledger cannot be read."""
        owned = caller_id, key
        while (other := self._claims.get(owned)) is not None:
            await other.settled.wait()
            if other.work_id is not None:
                return _same(other.fingerprint.current, fingerprint, other.work_id)
        claim = self._claims[owned] = _Claim(fingerprint)
        try:
            record = await self._archive.read(lambda queries: queries.key(caller_id, key))
            is_free = record is None or await self._has_expired(record)
        except BaseException:
            self.abandon(caller_id, key)
            raise
        if record is None or is_free:
            return None
        self._drop(owned, claim)
        return _same(record.fingerprint, fingerprint, record.work_id)

    def settle(self, caller_id: str, key: str, work_id: str) -> None:
        """Assign the work to a claimed key."""
        owned = caller_id, key
        claim = self._claims[owned]
        claim.work_id = work_id
        self.key_of[work_id] = owned
        claim.settled.set()
        self._ledger.upsert(KeyRecord(caller_id, key, claim.fingerprint.current, work_id, self._clock()))

    def abandon(self, caller_id: str, key: str) -> None:
        """Release a claimed key whose work was not accepted. The next waiting request claims it."""
        owned = caller_id, key
        claim = self._claims.get(owned)
        if claim is None or claim.work_id is not None:  # there is no claim if its work has ended meanwhile
            self._ledger.delete(KeyRecord, caller_id, key)
        if claim is not None:
            self.key_of.pop(claim.work_id or "", None)
            claim.work_id = None
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
                self._ledger.delete(KeyRecord, record.caller_id, record.key)

    async def _has_expired(self, record: KeyRecord) -> bool:
        if record.created_at + KEPT_FOR > self._clock():
            return False
        return not await self._archive.read(lambda queries: queries.is_unfinished(record.work_id))

    def _drop(self, owned: OwnedKey, claim: _Claim) -> None:
        if self._claims.get(owned) is claim:
            del self._claims[owned]
        claim.settled.set()


def _same(known: str, fingerprint: BodyFingerprint, work_id: str) -> str:
    """The id of the work. Raises IdempotencyConflict if its body had another fingerprint."""
    if not fingerprint.matches(known):
        raise IdempotencyConflict(
            "This Idempotency-Key was used with a different body. Use a new key for each request."
        )
    return work_id
