"""Idempotency keys: requests of one caller with the same key and body get the same work, also after a restart.

The first request with a key claims it. Requests with the same key, even at the same instant, wait until the first is
accepted, and get its work. The claim stays in memory until the work has ended; the ledger keeps the key for a day.

If several processes share the ledger, a key is claimed there too, before its work is accepted: of two processes, one
inserts the row, and the other waits for the work in it.

A batch may have a key, and keys of its items. All are claimed together or none, so that no request that waits for a key
holds one.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from errors import IdempotencyConflict, InvalidRequest, Problem
from generations.archive import Archive
from generations.submission import BodyFingerprint
from ledger import Ledger, Progress
from ledger.claims import ClaimKey, ClaimKeys
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


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A request for a key of the new work `work_id`. `field` is the place of the key in the body if it is that of an
    item of a batch. None means the key of the request itself, which comes first."""

    key: str
    fingerprint: BodyFingerprint
    work_id: str
    field: str | None = None


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
        return (await self.claim_all(caller_id, [KeyRequest(key, fingerprint, work_id)])).get(key)

    async def claim_all(self, caller_id: str, requested: Sequence[KeyRequest]) -> Mapping[str, str]:
        """The ids of the works with these keys, by key. The others were free and are now claimed, all for their new
        work: then call `settle` or `abandon` for each. If the request itself has earlier work, this is all that is
        returned, and no key is claimed.

        Raises IdempotencyConflict if a body differs, and LedgerDown. Then no key is claimed."""
        while (other := self._undecided(caller_id, requested)) is not None:
            await other.decided.wait()
        live = {each.key: self._claims.get((caller_id, each.key)) for each in requested}
        earlier = {key: claim.record for key, claim in live.items() if claim is not None}
        if (whole := _checked(requested[:1], earlier)) is not None:
            return whole
        now = self._clock()
        claims = {
            each.key: _Claim(
                KeyRecord(
                    caller_id, each.key, each.fingerprint.current, each.work_id, now, self._ledger.process
                )
            )
            for each in requested
            if each.key not in earlier
        }
        self._claims |= {(caller_id, key): claim for key, claim in claims.items()}
        try:
            records = {key: each.record for key, each in claims.items()}
            known = await self._claim_in_ledger(requested, records, earlier)
        except BaseException:
            self._drop(caller_id, claims)
            raise
        if (whole := _checked(requested, known)) is not None:
            self._drop(caller_id, claims)
            return whole
        self._drop(caller_id, {key: claims[key] for key in known})
        return {key: each.work_id for key, each in {**earlier, **known}.items()}

    async def known(self, caller_id: str, requested: Sequence[KeyRequest]) -> Mapping[str, str]:
        """The ids of the works with these keys, by key, without claiming the others. Raises as `claim_all`."""
        records = {each.key: self._claims.get((caller_id, each.key)) for each in requested}
        live = {key: claim.record for key, claim in records.items() if claim is not None and claim.is_settled}
        found = live | await self._read(caller_id, [each.key for each in requested if each.key not in live])
        _checked(requested, found)
        return {key: each.work_id for key, each in found.items()}

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
            self._drop(caller_id, {key: claim})

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

    def _undecided(self, caller_id: str, requested: Iterable[KeyRequest]) -> _Claim | None:
        """A claim of one of these keys by another request whose work may not be accepted."""
        found = (self._claims.get((caller_id, each.key)) for each in requested)
        return next((each for each in found if each is not None and not each.is_settled), None)

    async def _claim_in_ledger(
        self, requested: Sequence[KeyRequest], records: Mapping[str, KeyRecord], live: Mapping[str, KeyRecord]
    ) -> Mapping[str, KeyRecord]:
        """The records of earlier work with the keys of these records, beside `live` ones with other keys. The rest is
        free; in a shared ledger it then belongs to these records."""
        clock = asyncio.get_running_loop().time
        until = clock() + LONGEST_CLAIM
        while records:
            caller_id = next(iter(records.values())).caller_id
            earlier = await self._read(caller_id, list(records))
            if self._is_shared and clock() < until and not await self._have_work(earlier.values()):
                await asyncio.sleep(_PAUSE)
                continue
            free = [each for key, each in records.items() if key not in earlier]
            is_known = _checked(requested, {**live, **earlier}) is not None
            if not self._is_shared or not free or is_known or await self._insert(free):
                return earlier
        _checked(requested, live)
        return {}

    async def _read(self, caller_id: str, keys: Sequence[str]) -> dict[str, KeyRecord]:
        """The records of these keys that count, by key. In a shared ledger, others are deleted."""
        found = await self._archive.read(lambda queries: queries.keys(caller_id, keys)) if keys else ()
        old = [each for each in found if each.created_at + KEPT_FOR <= self._clock()]
        progress = await self._progress(old)
        over = [each for each in old if each.work_id not in progress or progress[each.work_id].has_ended]
        if self._is_shared:
            for each in over:
                self._delete(each)
        expired = {each.key for each in over}
        return {each.key: each for each in found if each.key not in expired}

    async def _insert(self, records: Sequence[KeyRecord]) -> bool:
        """Insert these keys if no other process has one of them. A row without work would keep a key from everyone, so
        all are deleted if the outcome is not known."""
        claim = ClaimKey(records[0]) if len(records) == 1 else ClaimKeys(tuple(records))
        claiming = asyncio.ensure_future(self._ledger.claim(claim))
        try:
            return await asyncio.shield(claiming)
        except BaseException:

            def undo(_: object) -> None:
                if not claiming.cancelled():
                    claiming.exception()  # retrieved, so that asyncio does not log it if the caller has left
                for each in records:
                    self._delete(each)

            claiming.add_done_callback(undo)  # a deletion before its end would come first
            raise

    async def _have_work(self, records: Iterable[KeyRecord]) -> bool:
        """Whether the work of each of these keys is on record. Another process may still be accepting it."""
        ids = {each.work_id for each in records}
        return ids <= (await self._progress(records)).keys()

    async def _progress(self, records: Iterable[KeyRecord]) -> Mapping[str, Progress]:
        ids = [each.work_id for each in records]
        return await self._archive.read(lambda queries: queries.progress(ids)) if ids else {}

    def _delete(self, record: KeyRecord) -> None:
        self._ledger.delete(KeyRecord, record.caller_id, record.key, record.work_id)

    def _drop(self, caller_id: str, claims: Mapping[str, _Claim]) -> None:
        for key, claim in claims.items():
            if self._claims.get((caller_id, key)) is claim:
                del self._claims[caller_id, key]
            claim.decided.set()


def _checked(requested: Sequence[KeyRequest], earlier: Mapping[str, KeyRecord]) -> Mapping[str, str] | None:
    """The id of the work of the request itself by its key, if there is one. Raises IdempotencyConflict if this work, or
    else that of one of the items, had a body with another fingerprint."""
    if not earlier:
        return None
    first = requested[0]
    if first.field is None and (record := earlier.get(first.key)) is not None:
        if not first.fingerprint.matches(record.fingerprint):
            raise IdempotencyConflict(
                "This Idempotency-Key was used with a different body. Use a new key for each request."
            )
        return {first.key: record.work_id}
    problems = [
        Problem(each.field or "", "was used for another request; use a new key for each")
        for each in requested
        if (record := earlier.get(each.key)) is not None and not each.fingerprint.matches(record.fingerprint)
    ]
    if problems:
        conflict = IdempotencyConflict(InvalidRequest(problems).detail)
        conflict.problems = tuple(problems)
        raise conflict
    return None
