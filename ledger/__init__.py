"""The ledger: every generation and batch is on disk before a request is sent upstream or answered.

`Ledger` writes and `Queries` reads. `writer.py` and `queries.py` implement them on a database (`sqlite.py`), and
`memory.py` in memory. One suite of tests runs on every implementation (`tests/contracts/`).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from contract.states import State
from ledger.access_records import ApiKeyRecord, AuditRecord, LostCallRecord, SpendingRecord
from ledger.claims import Claim
from ledger.model_records import LookupRecord, ModelRecord, SchemaRecord, TrainedModelRecord
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    Record,
    SemaphoreLeaseRecord,
    SemaphoreRecord,
)

DAY: Final = 86_400
"""Seconds of a day. Days are UTC days, counted from 1970."""

HASH_KEY: Final = "caller hash key"
"""The name of the value in `meta` that keys the hashes of callers. Every ledger has one from its start."""

Place = tuple[float, str]
"""The place of a row in a list: its moment and its id."""

GROUPS: Final = ("model", "caller", "day", "key")
TAG: Final = "tag:"
METADATA: Final = "metadata:"
"""By what usage is grouped: one of the words, or the tag of a key or the metadata of a request with the name after the
colon. A `key` is a caller, too. Deleted generations have no metadata."""


def date_of(day: int) -> str:
    """The date of a day that is counted from 1970, such as `2026-11-27`."""
    return datetime.fromtimestamp(day * DAY, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What other processes must know of one: the version of the service, the URL of the upstream, whether that is
    simulated, and the server's token, key or both, of which they see a hash."""

    version: str = ""
    upstream: str = ""
    simulated: bool = False
    token: str | None = field(default=None, repr=False)

    @property
    def facts(self) -> Mapping[str, bool]:
        """Which work of dead processes this one may continue."""
        return {"pays": self.token is not None, "simulated": self.simulated}


class Source(Protocol):
    """An object that changes more often than it is written. Its record is made just before each write."""

    @property
    def id(self) -> str: ...

    def record(self) -> Record: ...


class Ledger(Protocol):
    """Writes records. Use it on the loop; only `flush` waits."""

    @property
    def trouble(self) -> str | None:
        """A sentence that says why writes fail, or None while they succeed."""

    def upsert(self, record: Record) -> None:
        """Write this record soon, or with the next `flush`. It replaces a record with the same key. A generation is
        written with its attempts."""

    def mark_dirty(self, source: Source) -> None:
        """Write the record of this source soon, as it is at that moment."""

    def delete(self, kind: type[Record], *key: Any) -> None:
        """Delete the record with this key, whether it is on disk or still pending. A batch is deleted with its
        generations, a generation with its attempts, and both with their deliveries. The same transaction adds
        generations that have ended to the usage of their day, so `usage` and `cost_by_day` still count them."""

    async def flush(self) -> None:
        """Wait until all changes before this call are on disk. Raises LedgerDown if a write fails; it is retried."""

    @property
    def process(self) -> str | None:
        """The id of this process among those that share the ledger. None if it cannot be shared."""

    async def claim(self, claim: Claim) -> bool:
        """Make a change that only one process can make, in one transaction with all changes before this call. Returns
        whether it was made, once that is on disk. Raises LedgerDown; then it is not tried again, but may have been
        made."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of generations: `seq` below `before`, accepted at or after `since` and before `until` (Unix times).
    Without a `caller_id` they are of all callers, or of those keys that have this `key_name`, also deleted ones.
    `prompt` is a text that their prompts contain, in any case, and `metadata` are pairs that they have. With `after`,
    it is the page that ends before the generation with this `seq`. `training` is whether only trainings are in it, or
    none."""

    caller_id: str | None
    limit: int
    state: str | None = None
    model: str | None = None
    since: float | None = None
    before: int | None = None
    key_name: str | None = None
    batch_id: str | None = None
    kind: str | None = None
    prompt: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    until: float | None = None
    after: int | None = None
    training: bool | None = None


@dataclass(frozen=True, slots=True)
class ActsPage:
    """A page of the acts of administrators, from the one after the place `before`, at or after `since` (Unix time).
    `actor` is an id, and `action` a whole name or its part before the dot."""

    limit: int
    before: Place | None = None
    actor: str | None = None
    action: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Period:
    """A period of usage: generations that ended from `since` to before `until` (Unix times). None means no bound. For a
    deleted generation only the day is known; it counts as ended at the beginning of that day."""

    simulated: bool
    caller_id: str | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation or batch has come. `state` is that of a generation, and `ended` is how many generations of a
    batch have ended. A batch is suspended if one of its generations is."""

    state: str
    has_ended: bool
    is_suspended: bool
    ended: int = 0


class ModelQueries(Protocol):
    """Reads the models that were looked up, each either `simulated` or not. `readers` are the readers of
    `ModelRecord` of which the asking caller is one; the empty text is one of them."""

    def known_model(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[ModelRecord]:
        """What these readers know of the model, the latest look-up first. It may have been missing."""

    def known_version(self, readers: Collection[str], version: str, *, simulated: bool) -> ModelRecord | None:
        """The record of `owner/name:version` with this version, if these readers have it."""

    def known_models(self, search: str, *, limit: int, simulated: bool) -> Sequence[ModelRecord]:
        """Public models, without their versions, whose name or description has each word of `search`. The latest
        look-up comes first."""

    def schema(self, version: str, *, simulated: bool) -> SchemaRecord | None:
        """The schema of a version, which the caller must be known to have read."""

    def lookups(self, readers: Collection[str], name: str, *, simulated: bool) -> Sequence[LookupRecord]:
        """The look-ups of a model for these readers that are under way or over."""

    def outdated_models(self, before: float) -> Sequence[ModelRecord | LookupRecord]:
        """Models that were missing before this time, and look-ups that counted until then: rows to delete. It may not
        return all."""

    def trained_model(self, version: str, *, simulated: bool) -> TrainedModelRecord | None:
        """The version with this id, if a training made it."""

    def running_seconds(self, target: str, *, simulated: bool) -> Sequence[float]:
        """For how many seconds some of the latest predictions of this target ran, in any order."""


@dataclass(frozen=True, slots=True)
class PresentWork:
    """How many generations of a caller run or are being created, how many wait, and how many of its creations use a
    place of the last minute. Trainings are left out: they use none of these places."""

    in_flight: int
    waiting: int
    created: int


class AccessQueries(Protocol):
    """Reads named keys, and the acts of administrators."""

    def changed_api_keys(self, revision: int) -> Sequence[ApiKeyRecord]:
        """The keys that were changed after this revision, in the order of their last changes. After 0, only those that
        are not deleted."""

    def last_key_revision(self) -> int:
        """The revision of the last change of any key, 0 before the first."""

    def api_key(self, key_id: str) -> ApiKeyRecord | None:
        """A key, which may be deleted."""

    def api_keys(self, *, limit: int, before: Place | None = None) -> Sequence[ApiKeyRecord]:
        """The keys that are not deleted, the newest first, from the one after the place `before`."""

    def api_key_names(self, key_ids: Collection[str]) -> Mapping[str, str]:
        """The names of the keys with these ids, also of deleted ones."""

    def present_work(self, caller_id: str, since: float) -> PresentWork:
        """The work of a caller in all processes. Its creations are those that were answered at or after `since`, or
        have no answer yet."""

    def acts(self, page: ActsPage) -> Sequence[AuditRecord]:
        """The acts of a page, the latest first."""

    def act(self, act_id: str) -> AuditRecord | None:
        """The act with this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """A call to a text model that was sent. `tokens` are those of its prompt, and `usd` is the most it has cost.

    `answered_at` is when its answer began, and `ended_at` when its generation ended. If it `is_lost`, the end of its
    answer never came."""

    caller_id: str
    model: str
    submitted_at: float
    answered_at: float | None
    ended_at: float | None
    tokens: int
    usd: float
    is_lost: bool


class CallQueries(Protocol):
    """Reads the calls that still count in the limits of their accounts, each either `simulated` or not."""

    def past_calls(self, since: float, *, simulated: bool) -> Sequence[PastCall]:
        """The calls of each generation that ended at or after `since`, or has not ended."""

    def kept_texts(self, models: Collection[str], *, since: float, before: float, most: int) -> Sequence[str]:
        """The ids of generations with texts to remove: calls that ended from `since` to before `before`, or work for
        one of these text models that ended before a call. Not of those with a pending webhook delivery."""

    def calls_since(self, moment: float, *, simulated: bool) -> Mapping[tuple[str, str], int]:
        """How many calls were sent since this moment, by caller and model."""


class Queries(ModelQueries, AccessQueries, CallQueries, Protocol):
    """Reads records. Every method blocks, is safe on any thread, and raises LedgerDown. Records that are not flushed
    may be missing."""

    def generation(self, generation_id: str) -> GenerationRecord | None: ...

    def batch(self, batch_id: str) -> BatchRecord | None: ...

    def batches(
        self, caller_id: str | None, *, key_name: str | None = None, limit: int, before: Place | None = None
    ) -> Sequence[BatchRecord]:
        """The batches of a caller, or of callers as in `Page`, accepted before this place, the latest first."""

    def batch_states(self, batch_ids: Collection[str]) -> Mapping[str, Mapping[State, tuple[int, float]]]:
        """How many generations of each batch are in each state, and the USD that these have cost. Those that it has
        joined count with no cost."""

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        """The generations of a batch, in input order."""

    def members(self, work_ids: Collection[str]) -> Sequence[GenerationRecord]:
        """The generations with these ids, and those of batches with these ids."""

    def progress(self, work_ids: Collection[str]) -> Mapping[str, Progress]:
        """How far the generations and batches with these ids have come, without those that do not exist."""

    def ended_items(self, batch_id: str) -> Collection[str]:
        """The ids of the generations of a batch that have ended."""

    def page(self, page: Page) -> Sequence[GenerationRecord]:
        """The generations of a page, the latest first."""

    def unfinished(self, process: str | None = None) -> Sequence[GenerationRecord]:
        """Every generation that has not ended, in the order of acceptance. With a `process`, only those that it has
        taken over from dead ones and not resumed yet; so in the next methods, too."""

    def unfinished_batches(self, process: str | None = None) -> Sequence[BatchRecord]: ...

    def completed_batches(self) -> Collection[str]:
        """The ids of batches that have not ended although all their generations have. Usually they are about to end."""

    def suspended(self, before: float) -> Sequence[GenerationRecord]:
        """The unfinished generations that were suspended before this time."""

    def recent_attempts(self, since: float) -> Sequence[AttemptRecord]:
        """The attempts of each generation that ended at or after `since`, or has not ended."""

    def recent_work_of_keys(self, since: float) -> Mapping[str, str]:
        """The callers of the generations of named keys that ended at or after `since`, or have not ended, by
        generation."""

    def key(self, caller_id: str, key: str) -> KeyRecord | None: ...

    def keys(self, caller_id: str, keys: Collection[str]) -> Sequence[KeyRecord]:
        """Those of these keys that the caller has, in any order."""

    def expired_keys(self, before: float) -> Sequence[KeyRecord]:
        """Idempotency keys that were created before this time and whose work has ended. It may not return all."""

    def is_unfinished(self, work_id: str) -> bool:
        """Whether a generation or batch with this id has not ended."""

    def lost_calls(
        self, caller_id: str | None = None, body_fingerprint: str | None = None
    ) -> Sequence[LostCallRecord]:
        """Calls whose connection was lost, of any caller and body or of these."""

    def may_be_left(
        self, caller_id: str, body_fingerprint: str, *, process: str | None, seconds: float
    ) -> bool:
        """Whether unfinished work with this body was taken over and is not resumed yet, or is of another process that
        is dead or has shown no sign of life for so many seconds. Then its calls may soon be lost ones."""

    def delivery(self, work_id: str) -> Delivery | None: ...

    def pending_deliveries(self, process: str | None = None) -> Sequence[Delivery]: ...

    def oldest_doubt(self) -> float | None:
        """The Unix time of the earliest creation in an unfinished generation whose outcome is unknown."""

    def forgettable(
        self, before: float, *, files_before: float, weights_before: float | None = None, most: int
    ) -> Sequence[tuple[type[Record], str]]:
        """Work to delete, as kinds and ids: work that ended before `before`, and with stored files also before
        `files_before`. It covers about `most` generations and only whole batches, and is empty if nothing is left. The
        files of a training are its weights: it stays as long as it has any, unless it ended before `weights_before`.

        Work with an idempotency key or a pending webhook delivery is not included, and neither is a generation that a
        batch has joined. If that holds for one generation of a batch, the whole batch is not included."""

    def semaphores(self) -> Sequence[SemaphoreRecord]: ...

    def semaphore_leases(self) -> Sequence[SemaphoreLeaseRecord]: ...

    def names_semaphore(self, semaphore_id: str) -> bool:
        """Whether a generation that has not ended names this semaphore."""

    def meta(self, name: str) -> bytes | None: ...

    def metas(self, prefix: str) -> Mapping[str, bytes]:
        """The values of `meta` by name, of all names that begin with `prefix`."""

    def cost_by_day(self, account: str, since: float, *, simulated: bool) -> Mapping[int, float]:
        """USD of the generations of an account (`contract.callers`) that ended at or after `since`, by day (UTC,
        counted from 1970)."""

    def budget_spent(self, day: int, *, simulated: bool) -> Mapping[int, float]:
        """USD that processes have spent of the budget from this day on, by day (UTC, counted from 1970). Call it and
        `budget_total` only if several processes share the ledger."""

    def budget_total(self, account: str, day: int, *, simulated: bool) -> float:
        """USD that all processes have spent of this account's budget from this day on, and have reserved. Work that one
        has taken over from a dead one counts by itself until it is resumed."""

    def spending(self, payer: str, since: str, *, simulated: bool) -> tuple[float, float]:
        """USD that all processes have spent for a named key, and have reserved, for work that was accepted on or after
        this day, such as `2026-11-01`. Call it only if several processes share the ledger. Work that one has taken over
        from a dead one counts by itself until it is resumed."""

    def spending_rows(self, process: str, *, before: str) -> Sequence[SpendingRecord]:
        """The rows of this process, and those of all for days before this one, such as `2026-11-01`. It may not return
        all of the latter."""

    def failures(self, since: float, *, simulated: bool) -> Mapping[str, int]:
        """How many generations failed at or after `since`, by the code of their error."""

    def usage(self, period: Period, *, by: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
        """Counts and sums: one row for each group, in order, or one row in total. `by` are the groups (`GROUPS`)."""
