"""The rows that a process has written lately, for a database that has lost its last commits.

A row is kept for a minute, and as long as it may change again. The minute stands still while no transaction can be
committed, since an outage before the loss may be long. Each row is complete by itself, so it can be written once more.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from ledger.access_records import LostCallRecord, SpendingRecord
from ledger.claims import Claim, ClaimKey, ClaimKeys, ClaimSent, keys_of, written_with
from ledger.money_records import BudgetRecord
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    LeaseRecord,
    LeaseState,
    Record,
)
from ledger.tables import MAPPINGS, Key

KEPT: Final = 60.0
"""Seconds of commits after which a row is forgotten that will not change. Commits that are lost are not older."""

Place = tuple[type[Record], Key]
Changes = Mapping[Place, Record | None]
"""Records by kind and key; None removes the row."""


def as_changes(records: Iterable[Record]) -> Changes:
    """The changes that write these records."""
    return {(type(each), MAPPINGS[type(each)].key_of(each)): each for each in records}


class RecentRows:
    """`clock` is in seconds. Not safe on several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._living: dict[Place, Record] = {}
        self._past: dict[Place, tuple[float, Record | None]] = {}
        """Other rows with the times at which they were written, the oldest first."""

    def note(self, changes: Changes, made: Iterable[Claim] = ()) -> None:
        """These changes and claims were committed."""
        now = self._clock()
        for place, record in changes.items():
            if (
                place[0] is not LostCallRecord
            ):  # a retry may have joined the call meanwhile, in another process
                self._note(place, record, now)
        for claim in made:
            for place, record in as_changes(written_with(claim)).items():
                self._note(place, record, now)
            if isinstance(claim, ClaimKey | ClaimKeys):
                for place, record in as_changes(keys_of(claim)).items():
                    self._note(place, record, now)
            elif isinstance(claim, ClaimSent):
                place = LeaseRecord, (claim.lease_id,)
                lease = self._living.get(place)
                if isinstance(lease, LeaseRecord):
                    self._living[place] = replace(lease, state=LeaseState.SENT, reference=claim.reference)
        self._forget(now)

    def rows(self) -> Changes:
        """The rows to write again, as changes."""
        return {**self._living, **{place: record for place, (_, record) in self._past.items()}}

    def _note(self, place: Place, record: Record | None, now: float) -> None:
        self._living.pop(place, None)
        self._past.pop(place, None)
        if record is not None and _may_change(record):
            self._living[place] = record
        else:
            self._past[place] = now, record

    def _forget(self, now: float) -> None:
        while self._past:
            place, (written_at, record) = next(iter(self._past.items()))
            if now < written_at + KEPT:
                break
            del self._past[place]
            if self._is_of_living_work(record):
                self._past[place] = now, record

    def _is_of_living_work(self, record: Record | None) -> bool:
        match record:
            case KeyRecord(work_id=work_id) | AttemptRecord(generation_id=work_id):
                return any((kind, (work_id,)) in self._living for kind in (GenerationRecord, BatchRecord))
        return False


def _may_change(record: Record) -> bool:
    """Whether this process may write the row again. Suspended work belongs to no process."""
    match record:
        case GenerationRecord():
            return not record.has_ended and record.suspended_at is None
        case BatchRecord():
            return record.ended_at is None
        case LeaseRecord():
            is_lost_call = record.account is not None and record.state == LeaseState.LOST
            return record.state < LeaseState.OVER and not is_lost_call
        case Delivery():
            return record.state == "pending"
        case SpendingRecord():
            return record.reserved > 0
    return isinstance(record, BudgetRecord)
