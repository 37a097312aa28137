"""Idempotency keys: the same key and body from the same caller is the same work, also after a restart.

The first request with a key claims it. Requests with the same key wait until that one is accepted, even at the same
instant, and get the same work. The claim is held in memory until the work has ended; the ledger knows the key for a
day.
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
"""Seconds that a key is kept, and in any case until its work has ended."""

Place = tuple[str, str]


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
        self._claims: dict[Place, _Claim] = {}
        self._place_of: dict[str, Place] = {}

    async def claim(self, caller_id: str, key: str, fingerprint: BodyFingerprint) -> str | None:
        """The id of the work that the key stands for. None if it is free: then `settle` or `abandon` it.

        Raises IdempotencyConflict, and LedgerDown if the ledger cannot be read."""
        place = caller_id, key
        while (other := self._claims.get(place)) is not None:
            await other.settled.wait()
            if other.work_id is not None:
                return _same(other.fingerprint.current, fingerprint, other.work_id)
        claim = self._claims[place] = _Claim(fingerprint)
        try:
            record = await self._archive.read(lambda queries: queries.key(caller_id, key))
            is_free = record is None or await self._has_expired(record)
        except BaseException:
            self.abandon(caller_id, key)
            raise
        if record is None or is_free:
            return None
        self._let_go(place, claim)
        return _same(record.fingerprint, fingerprint, record.work_id)

    def settle(self, caller_id: str, key: str, work_id: str) -> None:
        """The key stands for this work from now on."""
        place = caller_id, key
        claim = self._claims[place]
        claim.work_id = work_id
        self._place_of[work_id] = place
        claim.settled.set()
        self._ledger.upsert(KeyRecord(caller_id, key, claim.fingerprint.current, work_id, self._clock()))

    def abandon(self, caller_id: str, key: str) -> None:
        """The work was not accepted after all. The next request that waits claims the key anew."""
        place = caller_id, key
        claim = self._claims.get(place)
        if claim is None or claim.work_id is not None:  # None: its work has ended meanwhile
            self._ledger.delete(KeyRecord, caller_id, key)
        if claim is not None:
            self._place_of.pop(claim.work_id or "", None)
            claim.work_id = None
            self._let_go(place, claim)

    def release(self, work_id: str) -> None:
        """The work has ended: from here on the ledger answers for its key."""
        place = self._place_of.pop(work_id, None)
        if place is not None:
            self._claims.pop(place, None)

    async def forget_expired(self) -> None:
        """Delete expired keys, unless their work is unfinished. Raises LedgerDown."""
        before = self._clock() - KEPT_FOR
        for record in await self._archive.read(lambda queries: queries.expired_keys(before)):
            if (record.caller_id, record.key) not in self._claims:
                self._ledger.delete(KeyRecord, record.caller_id, record.key)

    async def _has_expired(self, record: KeyRecord) -> bool:
        if record.created_at + KEPT_FOR > self._clock():
            return False
        return not await self._archive.read(lambda queries: queries.is_unfinished(record.work_id))

    def _let_go(self, place: Place, claim: _Claim) -> None:
        if self._claims.get(place) is claim:
            del self._claims[place]
        claim.settled.set()


def _same(known: str, given: BodyFingerprint, work_id: str) -> str:
    if not given.matches(known):
        raise IdempotencyConflict(
            "This Idempotency-Key came with another body before; use a key for one request only."
        )
    return work_id
