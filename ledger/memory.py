"""A ledger in memory. Tests run the whole service on it, in virtual time.

A commit takes `commit_seconds`, during which a process may be killed: after `crash` nothing more is committed, and the
ledger of the next simulated process starts with the same `rows`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, Final, cast

from contract.callers import KEY_PREFIX
from errors import LedgerDown
from ledger import Progress, Source
from ledger.blanking import BlankTexts
from ledger.claims import (
    Claim,
    ClaimApiKey,
    ClaimBatch,
    ClaimBudget,
    ClaimCancelled,
    ClaimKey,
    ClaimKeys,
    ClaimNotice,
    ClaimSent,
    ClaimSpending,
    ClaimSuspended,
    ReplaceValue,
    TakeLostCall,
    WaitsElsewhere,
    keys_of,
)
from ledger.memory_access import MemoryAccess
from ledger.memory_calls import MemoryPastCalls
from ledger.memory_lists import MemoryLists, joined_by
from ledger.memory_lost_calls import MemoryLostCalls
from ledger.memory_money import MemoryMoney
from ledger.memory_published import MemoryModels
from ledger.memory_rows import Rows
from ledger.money_records import UsageRecord
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    Record,
    SemaphoreLeaseRecord,
    SemaphoreRecord,
    owned,
)
from ledger.tables import MAPPINGS, Key
from ledger.training_claims import ClaimTraining
from ledger.usage import figures, usage_of

COMMIT_DELAY: Final = 0.02
"""Seconds until a change is committed without a `flush`."""

_RETRY_DELAY: Final = 1.0
"""Seconds between attempts to commit while `trouble` is set."""


class MemoryLedger(MemoryMoney, MemoryModels, MemoryLists, MemoryAccess, MemoryLostCalls, MemoryPastCalls):
    """`ledger.Ledger` and `ledger.Queries`. While `trouble` is set, nothing is committed."""

    def __init__(
        self, rows: Rows | None = None, *, commit_seconds: float = 0.0, process: str | None = None
    ) -> None:
        self.process = process
        self.rows: Rows = {kind: {} for kind in MAPPINGS} if rows is None else rows
        self.trouble: str | None = None
        self._commit_seconds = commit_seconds
        self._pending: dict[tuple[type[Record], Key], Record | None] = {}
        self._dirty: dict[str, Source] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._crashed = False

    # ── Writes

    def upsert(self, record: Record) -> None:
        self._pending[type(record), MAPPINGS[type(record)].key_of(record)] = record
        self._commit_in(COMMIT_DELAY)

    def mark_dirty(self, source: Source) -> None:
        self._dirty[source.id] = source
        self._commit_in(COMMIT_DELAY)

    def delete(self, kind: type[Record], *key: Any) -> None:
        self._pending[kind, key] = None
        self._commit_in(COMMIT_DELAY)

    async def flush(self) -> None:
        self._take_records()
        changes = dict(self._pending)
        await asyncio.sleep(self._commit_seconds)
        if self._crashed:
            await asyncio.get_running_loop().create_future()
        if self.trouble is not None:
            self._commit_in(_RETRY_DELAY)
            raise LedgerDown(self.trouble)
        self._commit(changes)

    async def claim(self, claim: Claim) -> bool:
        await self.flush()
        match claim:
            case ClaimKey() | ClaimKeys():
                return self._claimed_keys(keys_of(claim))
            case ClaimSuspended() | ClaimCancelled() | ClaimTraining():
                return self._claimed_work(claim)
            case ClaimBatch(batch_id):
                return self._claimed_batch(batch_id)
            case ClaimBudget() | ClaimSpending() | ClaimNotice():
                return self.claimed_money(claim)
            case ClaimApiKey() | ReplaceValue():
                return self.changed_key(claim) if isinstance(claim, ClaimApiKey) else self.replaced(claim)
            case BlankTexts():
                return self.blank(claim)
            case ClaimSent():
                return False  # only the holder of a shared gate grants leases, and this ledger has none
            case TakeLostCall() | WaitsElsewhere():
                return self.claimed_call(claim)
            case _:
                return self.claimed(claim)

    def _claimed_keys(self, records: Sequence[KeyRecord]) -> bool:
        rows = self.rows[KeyRecord]
        places = {_place(KeyRecord, MAPPINGS[KeyRecord].key_of(each)): each for each in records}
        earlier = [(rows[place], each) for place, each in places.items() if place in rows]
        if any(cast("KeyRecord", kept).work_id != each.work_id for kept, each in earlier):
            return False
        rows |= {place: replace(each, process=self.process) for place, each in places.items()}
        return True

    def _claimed_batch(self, batch_id: str) -> bool:
        batch = self.batch(batch_id)
        if batch is None or batch.ended_at is not None or batch.process not in {None, self.process}:
            return False
        self.rows[BatchRecord][batch_id,] = replace(batch, process=self.process)
        return True

    def _change_unfinished(
        self, work_id: str, condition: Callable[[GenerationRecord], bool], **changes: Any
    ) -> bool:
        found = [each for each in self.members([work_id]) if not each.has_ended and condition(each)]
        self.rows[GenerationRecord] |= {(each.id,): replace(each, **changes) for each in found}
        return bool(found)

    def _claimed_work(self, claim: ClaimSuspended | ClaimCancelled | ClaimTraining) -> bool:
        match claim:
            case ClaimSuspended(work_id):
                taken: dict[str, Any] = {"suspended_at": None, "process": self.process}
                return self._change_unfinished(work_id, lambda each: each.suspended_at is not None, **taken)
            case ClaimCancelled(work_id):
                return self._change_unfinished(work_id, lambda _: True, cancelled=True)
            case ClaimTraining():
                return self._claimed_training(claim)

    def _claimed_training(self, claim: ClaimTraining) -> bool:
        others = self._generations(
            lambda each: (
                each.is_training
                and each.state in {"submitting", "running"}
                and each.suspended_at is None
                and each.id != claim.work_id
            )
        )
        if len(others) >= claim.most:
            return False
        return self._change_unfinished(claim.work_id, lambda each: each.is_training, state="submitting")

    def crash(self) -> None:
        """Discard all changes that are not committed."""
        self._crashed = True

    def _commit_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._commit_all)

    def _commit_all(self) -> None:
        self._timer = None
        self._take_records()
        if self.trouble is not None:
            self._commit_in(_RETRY_DELAY)
        elif not self._crashed:
            self._commit(dict(self._pending))

    def _take_records(self) -> None:
        """Add the present records of all dirty sources to the pending changes."""
        for source in self._dirty.values():
            record = source.record()
            place = type(record), MAPPINGS[type(record)].key_of(record)
            self._pending.pop(place, None)  # so that it comes after the deletions before it
            self._pending[place] = record
        self._dirty.clear()

    def _commit(self, changes: Mapping[tuple[type[Record], Key], Record | None]) -> None:
        for (kind, key), record in changes.items():
            if self._pending.get((kind, key), self) is not record:
                continue  # a later change has replaced it
            del self._pending[kind, key]
            if kind is AttemptRecord:
                self._delete_attempt(*key)
            elif record is None:
                self._delete(kind, key)
            else:
                self.rows[kind][_place(kind, key)] = self._numbered(owned(record, self.process), key)

    def _delete(self, kind: type[Record], key: Key) -> None:
        """Delete a record with its dependents, and add generations that have ended to the usage of their day."""
        kept = self.rows[kind].get(_place(kind, key))
        if kept is not None and MAPPINGS[kind].key_of(kept) != key:
            return  # the idempotency key of other work
        found = self.rows[kind].pop(_place(kind, key), None)
        if isinstance(found, GenerationRecord | BatchRecord):
            self.rows[Delivery].pop(key, None)
        if isinstance(found, BatchRecord):
            for item in self.batch_items(found.id):
                self._delete(GenerationRecord, (item.id,))
        if isinstance(found, GenerationRecord) and found.ended_at is not None:
            one = usage_of(found)
            place = MAPPINGS[UsageRecord].key_of(one)
            others = [each for each in self.all(UsageRecord) if MAPPINGS[UsageRecord].key_of(each) == place]
            self.rows[UsageRecord][place] = replace(one, **figures([one, *others]))

    def _delete_attempt(self, generation_id: str, number: int) -> None:
        """Remove an attempt from its generation's record, unless a newer record has replaced it."""
        found = self.generation(generation_id)
        if found is not None and any(each.open and each.number == number for each in found.attempts):
            left = tuple(each for each in found.attempts if each.number != number)
            self.rows[GenerationRecord][generation_id,] = replace(found, attempts=left)

    def _numbered(self, record: Record, key: Key) -> Record:
        if not isinstance(record, GenerationRecord):
            return self.newest(record)
        if (before := self.generation(*key)) is not None:
            return replace(record, seq=before.seq, cancelled=record.cancelled or before.cancelled)
        last = cast("GenerationRecord | None", next(reversed(self.rows[GenerationRecord].values()), None))
        return replace(record, seq=((last and last.seq) or 0) + 1)

    # ── Queries

    def generation(self, generation_id: str) -> GenerationRecord | None:
        return cast("GenerationRecord | None", self.rows[GenerationRecord].get((generation_id,)))

    def batch(self, batch_id: str) -> BatchRecord | None:
        return cast("BatchRecord | None", self.rows[BatchRecord].get((batch_id,)))

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        items = self._generations(lambda each: each.batch_id == batch_id)
        return sorted(items, key=lambda each: each.position or 0)

    def members(self, work_ids: Collection[str]) -> Sequence[GenerationRecord]:
        return self._generations(lambda each: each.id in work_ids or each.batch_id in work_ids)

    def progress(self, work_ids: Collection[str]) -> Mapping[str, Progress]:
        found: dict[str, Progress] = {}
        for work_id in work_ids:
            one, batch = self.generation(work_id), self.batch(work_id)
            if one is not None:
                found[work_id] = Progress(one.state, one.has_ended, one.suspended_at is not None)
            elif batch is not None:
                items = self.batch_items(work_id)
                found[work_id] = Progress(
                    "",
                    batch.ended_at is not None,
                    any(each.suspended_at is not None for each in items),
                    sum(each.has_ended for each in items),
                )
        return found

    def ended_items(self, batch_id: str) -> Collection[str]:
        return [each.id for each in self.batch_items(batch_id) if each.has_ended]

    def unfinished(self, process: str | None = None) -> Sequence[GenerationRecord]:
        return self._generations(lambda each: not each.has_ended and _is_taken_by(process, each))

    def unfinished_batches(self, process: str | None = None) -> Sequence[BatchRecord]:
        return [
            each for each in self.all(BatchRecord) if each.ended_at is None and _is_taken_by(process, each)
        ]

    def completed_batches(self) -> Collection[str]:
        return [
            batch.id
            for batch in self.unfinished_batches()
            if all(each.has_ended for each in self.batch_items(batch.id))
        ]

    def suspended(self, before: float) -> Sequence[GenerationRecord]:
        return self._generations(
            lambda each: not each.has_ended and each.suspended_at is not None and each.suspended_at < before
        )

    def recent_attempts(self, since: float) -> Sequence[AttemptRecord]:
        recent = self._generations(lambda each: each.ended_at is None or each.ended_at >= since)
        return [attempt for each in recent for attempt in each.attempts]

    def recent_work_of_keys(self, since: float) -> Mapping[str, str]:
        recent = self._generations(lambda each: each.ended_at is None or each.ended_at >= since)
        return {each.id: each.caller_id for each in recent if each.caller_id.startswith(KEY_PREFIX)}

    def key(self, caller_id: str, key: str) -> KeyRecord | None:
        return cast("KeyRecord | None", self.rows[KeyRecord].get((caller_id, key)))

    def keys(self, caller_id: str, keys: Collection[str]) -> Sequence[KeyRecord]:
        found = (self.key(caller_id, key) for key in keys)
        return [each for each in found if each is not None]

    def expired_keys(self, before: float) -> Sequence[KeyRecord]:
        return [
            each
            for each in self.all(KeyRecord)
            if each.created_at < before and not self.is_unfinished(each.work_id)
        ]

    def is_unfinished(self, work_id: str) -> bool:
        found = self.generation(work_id) or self.batch(work_id)
        return found is not None and found.ended_at is None

    def delivery(self, work_id: str) -> Delivery | None:
        return cast("Delivery | None", self.rows[Delivery].get((work_id,)))

    def pending_deliveries(self, process: str | None = None) -> Sequence[Delivery]:
        return [
            each for each in self.all(Delivery) if each.state == "pending" and _is_taken_by(process, each)
        ]

    def semaphores(self) -> Sequence[SemaphoreRecord]:
        return self.all(SemaphoreRecord)

    def semaphore_leases(self) -> Sequence[SemaphoreLeaseRecord]:
        return self.all(SemaphoreLeaseRecord)

    def names_semaphore(self, semaphore_id: str) -> bool:
        return any(each.semaphore == semaphore_id for each in self.unfinished())

    def oldest_doubt(self) -> float | None:
        attempts = (attempt for each in self.unfinished() for attempt in each.attempts)
        return min((each.submitted_at or 0.0 for each in attempts if each.is_in_doubt), default=None)

    def forgettable(
        self, before: float, *, files_before: float, weights_before: float | None = None, most: int
    ) -> Sequence[tuple[type[Record], str]]:
        keyed = {each.work_id for each in self.all(KeyRecord)}
        keyed |= {each for batch in self.all(BatchRecord) for each in joined_by(batch)}
        pending = {each.id for each in self.pending_deliveries()}

        def may_go(each: GenerationRecord | BatchRecord) -> bool:
            moment = before
            if isinstance(each, GenerationRecord) and each.files:
                of_files = (
                    (-inf if weights_before is None else weights_before) if each.is_training else files_before
                )
                moment = min(before, of_files)
            stays = each.id in pending or each.id in keyed
            return each.ended_at is not None and each.ended_at < moment and not stays

        found: list[tuple[type[Record], str]] = []
        items = 0
        for batch in sorted(self.all(BatchRecord), key=lambda each: each.ended_at or 0.0):
            items_may_go = all(may_go(each) for each in self.batch_items(batch.id))
            if may_go(batch) and items_may_go:
                if found and items + batch.total > most:
                    break
                found.append((BatchRecord, batch.id))
                items += batch.total
        singles = self._generations(lambda each: not each.batch_id and may_go(each))
        singles.sort(key=lambda each: each.ended_at or 0.0)
        return found or [(GenerationRecord, each.id) for each in singles[:most]]

    def failures(self, since: float, *, simulated: bool) -> Mapping[str, int]:
        failed = self._generations(
            lambda each: (
                each.state == "failed" and each.simulated == simulated and (each.ended_at or 0.0) >= since
            )
        )
        return Counter(each.error.code for each in failed if each.error)

    def _generations(self, matches: Callable[[GenerationRecord], bool]) -> list[GenerationRecord]:
        return [each for each in self.all(GenerationRecord) if matches(each)]


def _place(kind: type[Record], key: Key) -> Key:
    """The key by which a row is unique."""
    return key[:2] if kind is KeyRecord else key


def _is_taken_by(process: str | None, record: GenerationRecord | BatchRecord | Delivery) -> bool:
    return process is None or (record.process == process and record.taken_at is not None)
