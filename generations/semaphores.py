"""Named semaphores and the leases of other services. Both are in the ledger before they are answered.

A lease expires by the loop's clock. After a restart its time continues by the wall clock, but for at most the time of
one renewal, so a clock that was set back keeps no permit for ever.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from admission.semaphores import SemaphoreSnapshot
from concurrency import Gate
from errors import (
    IdempotencyConflict,
    InvalidRequest,
    LeaseExpired,
    LedgerDown,
    NotFound,
    Problem,
    SemaphoreFull,
    SemaphoreInUse,
)
from generations.archive import Archive
from generations.supervisor import Supervisor
from ledger import Ledger, Queries
from ledger.records import SemaphoreLeaseRecord, SemaphoreRecord

MAX_SEMAPHORES: Final = 1_000


@dataclass(frozen=True, slots=True)
class KeptSemaphores:
    """The semaphores and leases in the ledger."""

    semaphores: Sequence[SemaphoreRecord]
    leases: Sequence[SemaphoreLeaseRecord]


class NamedSemaphores:
    """The semaphores of the gate. `load` may be called in any thread, everything else on the loop. Each coroutine
    raises LedgerDown if its change cannot be written."""

    def __init__(self, gate: Gate, ledger: Ledger, archive: Archive, supervisor: Supervisor) -> None:
        self._gate = gate
        self._ledger = ledger
        self._archive = archive
        self._supervisor = supervisor
        self._leases: dict[str, tuple[SemaphoreLeaseRecord, asyncio.TimerHandle]] = {}
        self._by_key: dict[tuple[str, str], str] = {}
        """The lease of each semaphore and idempotency key."""

    @staticmethod
    def load(queries: Queries) -> KeptSemaphores:
        return KeptSemaphores(queries.semaphores(), queries.semaphore_leases())

    def begin(self, kept: KeptSemaphores) -> None:
        """Continue with the semaphores and leases of an earlier process. Call it before any work is resumed."""
        for each in kept.semaphores:
            self._gate.set_semaphore(each.id, each.limit)
        for lease in kept.leases:
            left = min(lease.expires_at - time.time(), lease.ttl)
            if left > 0 and self._gate.semaphore(lease.semaphore) is not None:
                self._gate.extend_permit(lease.semaphore, lease.id, self._hold(lease, left))
            else:
                self._ledger.delete(SemaphoreLeaseRecord, lease.id)

    async def all(self) -> list[SemaphoreSnapshot]:
        """All semaphores, by id."""
        return sorted(self._gate.semaphores(), key=lambda each: each.id)

    async def set_limit(self, semaphore_id: str, limit: int) -> SemaphoreSnapshot:
        """Create a semaphore or change its limit, at once. Raises InvalidRequest if there are too many."""
        self._raise_if_down()
        if self._gate.semaphore(semaphore_id) is None and len(self._gate.semaphores()) >= MAX_SEMAPHORES:
            reason = f"would be one more than the {MAX_SEMAPHORES} semaphores that the service holds at most"
            raise InvalidRequest([Problem("semaphore_id", reason, semaphore_id)])
        self._gate.set_semaphore(semaphore_id, limit)
        self._ledger.upsert(SemaphoreRecord(semaphore_id, limit))
        await self._ledger.flush()
        return self._existing(semaphore_id)

    async def remove(self, semaphore_id: str) -> None:
        """Delete a semaphore. Raises NotFound, and SemaphoreInUse if a lease holds a permit or if unfinished work names
        it, which includes work that is suspended or between two attempts."""
        self._raise_if_down()
        self._existing(semaphore_id)
        await self._ledger.flush()  # so that the ledger has the ends of all work
        is_named = await self._archive.read(lambda queries: queries.names_semaphore(semaphore_id))
        seen = self._existing(semaphore_id)
        if is_named or seen.in_use or seen.waiting or self._supervisor.running.names_semaphore(semaphore_id):
            raise SemaphoreInUse(
                f"{seen.in_use} permits are in use, and {seen.waiting} generations wait for one. Work that is "
                "not finished may need one later."
            )
        self._gate.remove_semaphore(semaphore_id)
        self._ledger.delete(SemaphoreRecord, semaphore_id)
        await self._ledger.flush()

    async def lease(self, semaphore_id: str, ttl: float, key: str | None) -> SemaphoreLeaseRecord:
        """Lease a permit to another service for `ttl` seconds. The same `key` gets the same lease while that lives.

        Raises NotFound, SemaphoreFull, and IdempotencyConflict if the key's lease has another `ttl`."""
        self._raise_if_down()
        self._existing(semaphore_id)
        lease_id = None if key is None else self._by_key.get((semaphore_id, key))
        if lease_id is not None:
            record, _ = self._leases[lease_id]
            if record.ttl != ttl:
                raise IdempotencyConflict("This Idempotency-Key has a lease with another `ttl`.")
        else:
            lease_id = f"lease_{secrets.token_hex(16)}"
            until = asyncio.get_running_loop().time() + ttl
            wait = self._gate.lease_permit(semaphore_id, lease_id, until)
            if wait is not None:
                raise SemaphoreFull(retry_after=math.ceil(wait))
            record = SemaphoreLeaseRecord(lease_id, semaphore_id, ttl, time.time() + ttl, key)
            self._hold(record, ttl)
            self._ledger.upsert(record)
        try:
            await self._ledger.flush()
        except LedgerDown:
            self._end(lease_id)  # its holder does not learn the id
            raise
        if lease_id not in self._leases:
            raise LedgerDown("The lease could not be written.")
        return record

    async def renew(self, semaphore_id: str, lease_id: str) -> SemaphoreLeaseRecord:
        """Let a lease last for its `ttl` from now. Raises LeaseExpired if it has ended or never existed."""
        record = self._living(semaphore_id, lease_id)
        if record is None:
            raise LeaseExpired
        renewed = replace(record, expires_at=time.time() + record.ttl)
        self._gate.extend_permit(semaphore_id, lease_id, self._hold(renewed, record.ttl))
        self._ledger.upsert(renewed)
        await self._ledger.flush()
        return renewed

    async def release(self, semaphore_id: str, lease_id: str) -> None:
        """End a lease. Succeeds also if it has ended or never existed."""
        if self._living(semaphore_id, lease_id) is not None:
            self._end(lease_id)
            await self._ledger.flush()

    def close(self) -> None:
        """End no more leases: another process counts them from now on."""
        for _, timer in self._leases.values():
            timer.cancel()
        self._leases.clear()

    def _existing(self, semaphore_id: str) -> SemaphoreSnapshot:
        found = self._gate.semaphore(semaphore_id)
        if found is None:
            raise NotFound("There is no semaphore with this id.")
        return found

    def _living(self, semaphore_id: str, lease_id: str) -> SemaphoreLeaseRecord | None:
        record, _ = self._leases.get(lease_id, (None, None))
        return record if record is not None and record.semaphore == semaphore_id else None

    def _hold(self, record: SemaphoreLeaseRecord, seconds: float) -> float:
        """End this lease after so many seconds. Returns that moment of the loop's clock."""
        if record.id in self._leases:
            self._leases[record.id][1].cancel()
        timer = asyncio.get_running_loop().call_later(seconds, self._end, record.id)
        self._leases[record.id] = record, timer
        if record.key is not None:
            self._by_key[record.semaphore, record.key] = record.id
        return timer.when()

    def _end(self, lease_id: str) -> None:
        if lease_id not in self._leases:
            return
        record, timer = self._leases.pop(lease_id)
        timer.cancel()
        if record.key is not None:
            self._by_key.pop((record.semaphore, record.key), None)
        self._gate.return_permit(record.semaphore, lease_id)
        self._ledger.delete(SemaphoreLeaseRecord, lease_id)

    def _raise_if_down(self) -> None:
        if self._ledger.trouble is not None:
            raise LedgerDown(self._ledger.trouble)
