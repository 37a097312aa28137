"""The ledger: every generation and batch, on the disk before anything is sent or answered.

`Ledger` writes and `Queries` reads; `sqlite.py` and `memory.py` each implement both, and one suite of tests runs on
every implementation (`tests/contracts/`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from ledger.records import AttemptRecord, BatchRecord, Delivery, GenerationRecord, KeyRecord, Record

DAY: Final = 86_400
"""Seconds. A day is one of UTC; days are counted from 1970."""

Grouping = Literal["model", "caller", "day"]


class Source(Protocol):
    """An object that changes more often than it is written: its record is made at the write."""

    @property
    def id(self) -> str: ...

    def record(self) -> Record: ...


class Ledger(Protocol):
    """Call it on the loop; only `flush` waits."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written, in a sentence; None while all is well."""

    def upsert(self, record: Record) -> None:
        """Write this record soon, or with the next `flush`, in the place of one with the same key. A generation's
        record is written with its attempts."""

    def mark_dirty(self, source: Source) -> None:
        """Write the record of this source, as it is by then."""

    def delete(self, kind: type[Record], *key: Any) -> None:
        """Remove the record with this key, written already or not. A batch goes with its generations, a generation with
        its attempts, and both with their deliveries, in one transaction in which generations that had ended are added
        to the usage of their day: `usage` and `cost_by_day` go on counting them."""

    async def flush(self) -> None:
        """Wait until everything before this call is on the disk. Raises LedgerDown; the writes are retried."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which of a caller's generations to read: `seq` below `before`, accepted at or after `since` (Unix time)."""

    caller_id: str
    limit: int
    state: str | None = None
    model: str | None = None
    since: float | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """Which ended generations a sum is over: from `since` to before `until`, Unix times. None is no bound. Of a deleted
    generation only the day is known: it counts as ended at the beginning of that day."""

    simulated: bool
    caller_id: str | None = None
    since: float | None = None
    until: float | None = None


class Queries(Protocol):
    """Call it on any thread; it blocks. Unflushed records may be missing. All methods raise LedgerDown."""

    def generation(self, generation_id: str) -> GenerationRecord | None: ...

    def batch(self, batch_id: str) -> BatchRecord | None: ...

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        """The generations of a batch, in input order."""

    def members(self, work_id: str) -> Sequence[GenerationRecord]:
        """The generation with this id, or those of the batch with this id."""

    def page(self, page: Page) -> Sequence[GenerationRecord]:
        """A caller's generations, the latest first."""

    def unfinished(self) -> Sequence[GenerationRecord]:
        """Every generation that has not ended, in the order of acceptance."""

    def unfinished_batches(self) -> Sequence[BatchRecord]: ...

    def suspended(self, before: float) -> Sequence[GenerationRecord]:
        """The generations that were suspended before then and have not ended."""

    def recent_attempts(self, since: float) -> Sequence[AttemptRecord]:
        """The attempts of each generation that ended at or after `since`, or has not ended."""

    def key(self, caller_id: str, key: str) -> KeyRecord | None: ...

    def expired_keys(self, before: float) -> Sequence[KeyRecord]:
        """Some of the idempotency keys that were created before then and whose work has ended."""

    def is_unfinished(self, work_id: str) -> bool:
        """Whether a generation or batch with this id has not ended."""

    def delivery(self, work_id: str) -> Delivery | None: ...

    def pending_deliveries(self) -> Sequence[Delivery]: ...

    def oldest_doubt(self) -> float | None:
        """When the earliest creation was sent (Unix time) that is still in doubt in an unfinished generation."""

    def forgettable(
        self, before: float, *, files_before: float, most: int
    ) -> Sequence[tuple[type[Record], str]]:
        """Kinds and ids of work to delete that ended before then: of about `most` generations, but whole batches, or
        nothing if nothing is left. Work with kept files ended before `files_before`, too.

        Left out is work that an idempotency key stands for, or that is still to be delivered to a webhook. A batch is
        left out with all its generations if one of them is."""

    def meta(self, name: str) -> bytes | None: ...

    def cost_by_day(self, caller_id: str, since: float, *, simulated: bool) -> Mapping[int, float]:
        """USD of a caller's generations that ended at or after `since`, by day (UTC, counted from 1970)."""

    def failures(self, since: float, *, simulated: bool) -> Mapping[str, int]:
        """How many generations failed at or after `since`, by the code of their error."""

    def usage(self, period: Period, *, by: Grouping | None) -> Sequence[dict[str, Any]]:
        """Counts and sums, one row a group in the group's order, or one row for all."""
