"""Claims: changes that only one process can make, such as to take over suspended work.

A claim is a statement that changes a row only if its condition holds, in one transaction with all changes before it. So
of two processes, one makes the change and the other learns that it did not.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Final

from ledger.access_records import ApiKeyRecord, AuditRecord, LostCallRecord
from ledger.blanking import BlankTexts, blanking
from ledger.records import KeyRecord, Record
from ledger.sums import BUDGET_TOTAL, SPENDING, spending_of, total_of
from ledger.training_claims import TRAINING_PLACE, ClaimTraining, place_of


@dataclass(frozen=True, slots=True)
class ClaimKey:
    """Insert an idempotency key that has no row, or one of the same work."""

    record: KeyRecord


@dataclass(frozen=True, slots=True)
class ClaimKeys:
    """The same for several keys. Either all are inserted or none."""

    records: tuple[KeyRecord, ...]


@dataclass(frozen=True, slots=True)
class ClaimSuspended:
    """Take over the suspended generation with this id, or the suspended generations of the batch with this id."""

    work_id: str


@dataclass(frozen=True, slots=True)
class ClaimBatch:
    """Take over a batch that has not ended, unless another process that is alive has it."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class ClaimCancelled:
    """Cancel the unfinished generation with this id, or those of the batch with this id, in whichever process they run.
    A later record of that process does not undo it."""

    work_id: str


@dataclass(frozen=True, slots=True)
class ClaimSent:
    """Mark the lease of a creation as sent, if it is still granted. `reference` is the id of the attempt, and
    `runs_for` the most seconds that its prediction may run."""

    lease_id: str
    reference: str
    runs_for: float | None = None


@dataclass(frozen=True, slots=True)
class ClaimBudget:
    """Check a reservation of an account's budget, which was written to the row of this process before the claim:
    whether all processes together have spent from this `day` on and reserved at most `most` USD. Processes make this
    claim one after the other. If it fails, the row stays as it was written."""

    account: str
    most: float
    day: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class ClaimSpending:
    """Check a reservation of a named key, which was written to a row of this process before the claim: whether all
    processes together have spent and reserved at most `most` USD for work that was accepted on or after the day
    `since`. Such claims are made one after the other."""

    payer: str
    most: float
    since: str
    simulated: bool


@dataclass(frozen=True, slots=True)
class ClaimNotice:
    """Be the first to notice something about the spending of a key in the period that begins on the day `since`."""

    payer: str
    since: str
    simulated: bool
    notice: str


@dataclass(frozen=True, slots=True)
class ClaimLookup:
    """Look a model up `until` this time for all processes, unless another look-up of this name for this reader is under
    way at the time `now`."""

    reader: str
    name: str
    simulated: bool
    now: float
    until: float


@dataclass(frozen=True, slots=True)
class TakeLostCall:
    """Delete the row of a lost call, to join its work or to end it, unless another has done so."""

    lost: LostCallRecord


@dataclass(frozen=True, slots=True)
class WaitsElsewhere:
    """Note that the caller of this work waits in a process that does not run it. Then it loses no caller with the
    process that does."""

    work_id: str


@dataclass(frozen=True, slots=True)
class EndLookup:
    """End the look-up of this claim, unless it was taken over. No other is needed before the time `again_at`."""

    claim: ClaimLookup
    again_at: float


@dataclass(frozen=True, slots=True)
class ReplaceValue:
    """Write a value of `meta`, unless it has another one than `before`."""

    name: str
    before: bytes | None
    value: bytes


@dataclass(frozen=True, slots=True)
class ClaimApiKey:
    """Write a named key and the act that changed it, if the revision of the key is the next one: no other change has
    changed a key since its present row was read."""

    record: ApiKeyRecord
    audit: AuditRecord


Claim = (
    BlankTexts
    | ClaimKey
    | ClaimKeys
    | ClaimSuspended
    | ClaimBatch
    | ClaimCancelled
    | ClaimSent
    | ClaimBudget
    | ClaimSpending
    | ClaimNotice
    | ClaimLookup
    | EndLookup
    | ClaimApiKey
    | ReplaceValue
    | TakeLostCall
    | WaitsElsewhere
    | ClaimTraining
)

SENT: Final = """
    UPDATE leases SET state = 2, reference = claims.reference, runs_for = claims.runs_for, sent_at = clock_timestamp()
    FROM json_to_recordset(%s) AS claims (lease_id text, reference text, runs_for float8)
    WHERE id = claims.lease_id AND process = %s AND granted AND state IN (0, 2)
    RETURNING id
"""
"""The statement of any number of `ClaimSent`, whose fields are JSON, of a process. It returns the ids of the leases
that are sent now. Each creation makes such a claim, so one statement is for all that come together."""

_STATEMENTS: Final[Mapping[type[Claim], str]] = {
    ClaimKey: """
        INSERT INTO idempotency_keys (caller_id, "key", fingerprint, work_id, created_at, process)
        VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (caller_id, "key") DO UPDATE SET created_at = excluded.created_at
        WHERE idempotency_keys.work_id = excluded.work_id
    """,
    ClaimKeys: """
        INSERT INTO idempotency_keys (caller_id, "key", fingerprint, work_id, created_at, process)
        SELECT caller_id, "key", fingerprint, work_id, created_at, process FROM key_rows
        WHERE TRUE ORDER BY caller_id, "key"
        ON CONFLICT (caller_id, "key") DO UPDATE SET created_at = excluded.created_at
        WHERE idempotency_keys.work_id = excluded.work_id
    """,
    ClaimSuspended: """
        UPDATE generations SET process = ?, suspended_at = NULL
        WHERE (id = ? OR batch_id = ?) AND suspended_at IS NOT NULL AND ended_at IS NULL
    """,
    ClaimBatch: """
        UPDATE batches SET process = ? WHERE id = ? AND ended_at IS NULL AND (process = ? OR is_free)
    """,
    ClaimCancelled: """
        UPDATE generations SET cancelled = TRUE WHERE (id = ? OR batch_id = ?) AND ended_at IS NULL
    """,
    ClaimLookup: """
        INSERT INTO lookups (reader, name, simulated, until, is_over) VALUES (?, ?, ?, ?, FALSE)
        ON CONFLICT (reader, name, simulated) DO UPDATE SET until = excluded.until, is_over = FALSE
        WHERE lookups.is_over OR lookups.until <= ?
    """,
    EndLookup: """
        UPDATE lookups SET until = ?, is_over = TRUE
        WHERE reader = ? AND name = ? AND simulated = ? AND until = ? AND NOT is_over
    """,
    ClaimBudget: f"SELECT FROM ({BUDGET_TOTAL}) sums WHERE total <= %s",
    ClaimApiKey: """
        UPDATE meta SET value = value
        WHERE name = 'name' AND (SELECT coalesce(max(revision), 0) FROM api_keys) = ?
        RETURNING name
    """,
    ClaimSpending: f"SELECT FROM ({SPENDING}) sums WHERE spent + reserved <= %s",
    ClaimNotice: """
        INSERT INTO spending (payer, period, simulated, process, spent, reserved) VALUES (?, ?, ?, ?, 0, 0)
        ON CONFLICT (payer, period, simulated, process) DO NOTHING
    """,
    TakeLostCall: """
        DELETE FROM lost_calls WHERE caller_id = ? AND body_fingerprint = ? AND work_id = ? AND lost_at = ?
    """,
    ReplaceValue: """
        INSERT INTO meta (name, value) VALUES (?, ?)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE meta.value = ?
    """,
    WaitsElsewhere: "UPDATE of_work SET body_fingerprint = NULL WHERE id = ?",
    ClaimTraining: TRAINING_PLACE,
}

_IS_FREE: Final = {
    False: "process IS NULL",
    True: "NOT EXISTS (SELECT FROM processes WHERE processes.id = batches.process AND dead_at IS NULL)",
}
"""Whether no process has a batch, by whether several share the ledger."""

_KEY_ROWS: Final = {
    False: """(
        SELECT json_extract(value, '$.caller_id') AS caller_id, json_extract(value, '$.key') AS "key",
            json_extract(value, '$.fingerprint') AS fingerprint, json_extract(value, '$.work_id') AS work_id,
            json_extract(value, '$.created_at') AS created_at, NULL AS process FROM json_each(?)
    )""",
    True: "json_populate_recordset(NULL::idempotency_keys, ?)",
}
"""The rows of a parameter that is JSON, in SQLite and in PostgreSQL."""

_LOCK: Final = "SELECT FROM meta WHERE name = 'name' FOR UPDATE"

LOCKS: Final[Mapping[type[Claim], str]] = dict.fromkeys(
    (ClaimBudget, ClaimSpending, ClaimNotice, ClaimApiKey, ClaimTraining), _LOCK
)
"""A statement before that of the claim, which sees what others wrote before they let go of the lock."""


def lock_order(claim: Claim) -> tuple[str, ...]:
    """Sorts the claims of a transaction. Two processes make the same claims in one order, so that none waits for one
    that waits for it. Other claims come first."""
    match claim:
        case (ClaimLookup() as lookup) | EndLookup(lookup):
            return (lookup.reader, lookup.name)
        case TakeLostCall(lost):
            return (lost.caller_id, lost.work_id)
        case ClaimKey(key) | ClaimKeys((key, *_)):
            return (key.caller_id, key.key)
    return ()


def written_with(claim: Claim) -> tuple[Record, ...]:
    """The records that are written in the transaction of a claim if it is made. Then its statement returns a row."""
    return (claim.record, claim.audit) if isinstance(claim, ClaimApiKey) else ()


def keys_of(claim: ClaimKey | ClaimKeys) -> tuple[KeyRecord, ...]:
    """The idempotency keys that it inserts."""
    return (claim.record,) if isinstance(claim, ClaimKey) else claim.records


def statement(claim: Claim, process: str | None, *, placeholder: str) -> tuple[str, tuple[Any, ...]]:
    """The statement of a claim of this process, with its parameters. It changes no row if the claim fails."""
    is_shared = process is not None
    if isinstance(claim, BlankTexts):
        sql, parameters = blanking(claim, is_shared=is_shared)
        return sql.replace("?", placeholder), parameters
    sql = _STATEMENTS[type(claim)].replace("is_free", _IS_FREE[is_shared])
    if isinstance(claim, ClaimKeys):
        sql = sql.replace("key_rows", _KEY_ROWS[is_shared])
    if isinstance(claim, WaitsElsewhere):
        sql = sql.replace("of_work", "batches" if claim.work_id.startswith("batch_") else "generations")
    return sql.replace("?", placeholder), _parameters(claim, process)


def _parameters(claim: Claim, process: str | None) -> tuple[Any, ...]:
    match claim:
        case ClaimKey() | ClaimKeys():
            return _about_keys(claim, process)
        case ClaimSuspended() | ClaimBatch() | ClaimCancelled() | ClaimTraining():
            return _about_work(claim, process)
        case BlankTexts() | ClaimSent():
            raise ValueError("these have statements of their own")
        case ClaimLookup() | EndLookup():
            return _about_lookups(claim)
        case ClaimBudget() | ClaimSpending() | ClaimNotice():
            return _about_money(claim)
        case ClaimApiKey() | ReplaceValue():
            return _about_values(claim)
        case TakeLostCall() | WaitsElsewhere():
            return _about_calls(claim)


def _about_keys(claim: ClaimKey | ClaimKeys, process: str | None) -> tuple[Any, ...]:
    match claim:
        case ClaimKey(record):
            return *astuple(record)[:-1], process
        case ClaimKeys(records):
            return (json.dumps([asdict(each) | {"process": process} for each in records]),)


def _about_work(
    claim: ClaimSuspended | ClaimBatch | ClaimCancelled | ClaimTraining, process: str | None
) -> tuple[Any, ...]:
    match claim:
        case ClaimSuspended(work_id):
            return process, work_id, work_id
        case ClaimBatch(batch_id):
            return process, batch_id, process
        case ClaimCancelled(work_id):
            return work_id, work_id
        case ClaimTraining():
            return place_of(claim)


def _about_lookups(claim: ClaimLookup | EndLookup) -> tuple[Any, ...]:
    match claim:
        case ClaimLookup(reader, name, simulated, now, until):
            return reader, name, simulated, until, now
        case EndLookup(ClaimLookup(reader, name, simulated, _, until), again_at):
            return again_at, reader, name, simulated, until


def _about_money(claim: ClaimBudget | ClaimSpending | ClaimNotice) -> tuple[Any, ...]:
    match claim:
        case ClaimBudget(account, most, day, simulated):
            return *total_of(account, day, simulated), most
        case ClaimSpending(payer, most, since, simulated):
            return *spending_of(payer, since, simulated), most
        case ClaimNotice(payer, since, simulated, notice):
            return payer, since, simulated, notice


def _about_values(claim: ClaimApiKey | ReplaceValue) -> tuple[Any, ...]:
    match claim:
        case ClaimApiKey(record):
            return (record.revision - 1,)
        case ReplaceValue(name, before, value):
            return name, value, before


def _about_calls(claim: TakeLostCall | WaitsElsewhere) -> tuple[Any, ...]:
    match claim:
        case TakeLostCall(lost):
            return lost.caller_id, lost.body_fingerprint, lost.work_id, lost.lost_at
        case WaitsElsewhere(work_id):
            return (work_id,)
