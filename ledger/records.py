"""The records of the ledger: one for each row, with a field for each column (`ledger/tables.py`).

Moments are Unix times in seconds, durations are seconds, amounts are USD. Records hold no response bodies: those are
made from records when they are read (`generations/views.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Literal

from contract.states import ENDED, State
from contract.trainings import TRAINING
from ledger.access_records import ApiKeyRecord, AuditRecord, LostCallRecord, SpendingRecord
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord, TrainedModelRecord
from ledger.money_records import BudgetRecord, UsageRecord

Json = Mapping[str, Any]

CALL_COUNTS: Final = ("calls", "prompt_tokens", "completion_tokens", "thinking_tokens")
"""The fields that count calls and their tokens."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a generation or an attempt. `problems` lists the invalid fields, if it is about fields."""

    code: str
    detail: str
    retryable: bool
    problems: tuple[Json, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt of a generation with one model. `number` counts from 1.

    `open` is true while the attempt may have started a prediction whose end is unknown. `fingerprint` identifies the
    input that was sent. `created_at` is the prediction's date by the upstream's clock. A model that was `passed_over`
    was not called, for the reason in `error`. `clock_skew` is the number of seconds by which the upstream's clock was
    ahead of ours at `submitted_at`, if known. `seed` is that of the model, if known, in decimal digits, since some are
    too large for a column of numbers.

    Only calls that are their own answers have tokens. `prompt_tokens` is an upper bound until the upstream has counted
    them, and includes `cached_tokens`. `model_version` is the model that answered, and `finish_reason` why it stopped,
    both as the upstream spells them.
    """

    generation_id: str
    number: int
    model: str
    prediction_id: str | None = None
    error: Failure | None = None
    changes: tuple[Json, ...] = ()
    cost_usd: float = 0.0
    open: bool = False
    submitted_at: float | None = None
    answered_at: float | None = None
    fingerprint: str = ""
    created_at: float | None = None
    passed_over: bool = False
    clock_skew: float | None = None
    seed: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    thinking_tokens: int | None = None
    model_version: str | None = None
    finish_reason: str | None = None

    @property
    def is_call(self) -> bool:
        """Whether it is a call that is its own answer, and not a creation."""
        return self.prompt_tokens is not None

    @property
    def is_in_doubt(self) -> bool:
        """Whether it was submitted, and may or may not have created a prediction. Calls create none."""
        return self.open and self.submitted_at is not None and self.prediction_id is None and not self.is_call

    @property
    def may_have_created(self) -> bool:
        """Whether it created a prediction, or may have. An attempt with an unknown outcome has a cost."""
        return bool(self.open and self.submitted_at) or self.prediction_id is not None or self.cost_usd > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """One generation. `seq` is the order of acceptance, None until the ledger has written the record.

    `model` is the one that succeeded, failed last, or is next. `request` is the body to parse again after a restart,
    and None once the generation has ended. `lists_attempts` is true if the request had a `fallback`: responses then
    list the attempts instead of their number. `address` is the URL at which the caller reached this service.
    `semaphore` is the id of the semaphore of which each of its predictions holds a permit.

    `process` is the process that runs it if several share the ledger, as in the other records that have this field. It
    is None in a suspended generation. `taken_at` is when the process took it over from a dead one, until it resumes it.

    `outputs` are JSON values. `version` is the id of the model's version that was checked, and that each attempt with
    this model runs. `kind` is what was made, such as `image` or `text`. `cost_basis` says where `cost_usd` comes from:
    `declared`, `learned` or `bounded`. `warnings` are sentences for the caller. One that `has_secrets` was sent with
    secrets, which no record has.

    `metadata` is a JSON object of texts. `door` is the interface of another service by which it came,
    `body_fingerprint` identifies the body that came by it, and `door_facts` has the door's own facts as JSON.

    `text` is the text of an answer that is no success: cut off, or not valid. `calls` counts the calls that were sent,
    and the tokens are sums over them. A used-up quota `resets_at` this moment (ISO 8601). The `verdict` is that of the
    check before it was sent (`safety.judging.Verdict`), as JSON.
    """

    seq: int | None = None
    id: str
    caller_id: str
    batch_id: str | None
    position: int | None
    state: State
    model: str
    requested_model: str
    prompt: str
    file_name: str | None
    lists_attempts: bool
    request: str | None
    request_id: str
    webhook: str | None
    address: str
    simulated: bool
    accepted_at: float
    ended_at: float | None = None
    cancelled: bool = False
    suspended_at: float | None = None
    queued_seconds: float = 0.0
    predicting_seconds: float = 0.0
    total_seconds: float = 0.0
    outputs: tuple[Any, ...] = ()
    files: tuple[str, ...] = ()
    files_error: str | None = None
    placeholder: bool = False
    error: Failure | None = None
    cost_usd: float = 0.0
    reserved_usd: float = 0.0
    images: int = 0
    video_seconds: float = 0.0
    credits: int = 0
    semaphore: str | None = None
    process: str | None = None
    taken_at: float | None = None
    version: str | None = None
    kind: str | None = None
    cost_basis: str | None = None
    warnings: tuple[str, ...] = ()
    has_secrets: bool = False
    metadata: str | None = None
    door: str | None = None
    body_fingerprint: str | None = None
    door_facts: str | None = None
    text: str | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    thinking_tokens: int = 0
    resets_at: str | None = None
    verdict: str | None = None
    attempts: tuple[AttemptRecord, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def has_begun(self) -> bool:
        """Whether it is being created or runs. A training is marked as being created some time before it is sent."""
        if self.state == "submitting" and self.is_training:
            return any(each.open and each.submitted_at is not None for each in self.attempts)
        return self.state in {"submitting", "running"}

    @property
    def is_training(self) -> bool:
        """Whether it makes a version of a model (`contract.trainings`)."""
        return self.door == TRAINING

    @property
    def last_called(self) -> AttemptRecord | None:
        """The last attempt whose model was called."""
        return next((each for each in reversed(self.attempts) if not each.passed_over), None)

    @property
    def may_be_paid(self) -> bool:
        """Whether a prediction was created for it, or may have been."""
        return self.cost_usd > 0 or any(each.may_have_created for each in self.attempts)

    @property
    def prediction_id(self) -> str | None:
        return self.last_called.prediction_id if self.last_called else None

    def record(self) -> "GenerationRecord":
        """Returns itself, so that a stored generation is read like one in memory."""
        return self


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The forecast of a batch when it was accepted: seconds, USD and credits."""

    strategy: str
    seconds: float
    cost_usd: float
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One batch. `request` is the JSON that all items share. `metadata`, `door` and `body_fingerprint` are as in a
    generation. `joined` is a JSON object with the ids of items that were there before, by their places from 0: such a
    generation belongs to another batch or to none."""

    id: str
    caller_id: str
    total: int
    request: str
    max_concurrent: int | None
    max_cost_usd: float | None
    webhook: str | None
    plan: PlanRecord
    address: str
    simulated: bool
    accepted_at: float
    ended_at: float | None = None
    process: str | None = None
    taken_at: float | None = None
    metadata: str | None = None
    door: str | None = None
    body_fingerprint: str | None = None
    joined: str | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A caller's idempotency key, and the id of its generation or batch."""

    caller_id: str
    key: str
    fingerprint: str
    work_id: str
    created_at: float
    process: str | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook delivery: a result to be posted to `url`. The result was ready at `since`.

    `next_at` is the time of the next attempt; None in a new delivery means now. `trouble` is the reason why the last
    attempt failed, written for the caller.
    """

    id: str
    url: str
    since: float
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    next_at: float | None = None
    trouble: str | None = None
    delivered_at: float | None = None
    process: str | None = None
    taken_at: float | None = None


@dataclass(frozen=True, slots=True)
class SemaphoreRecord:
    """A named semaphore: at most `limit` permits of it are held at once."""

    id: str
    limit: int


@dataclass(frozen=True, slots=True)
class SemaphoreLeaseRecord:
    """A permit of a semaphore that another service holds until `expires_at`, or for `ttl` seconds after each renewal.
    `key` is the idempotency key of the request that took it."""

    id: str
    semaphore: str
    ttl: float
    expires_at: float
    key: str | None = None


@dataclass(frozen=True, slots=True)
class MetaRecord:
    """A value that the service stores for itself."""

    name: str
    value: bytes


class LeaseState(IntEnum):
    """The state of a lease of the shared gate. Later states have higher numbers."""

    WANTED = 0
    SENT = 2
    LOST = 3
    ANSWERED = 4
    OVER = 5
    GONE = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A request of one process to the gate that all processes share, in PostgreSQL only.

    `reference` is the id of the attempt at its provider, once it is known. `sent_ago` is the number of seconds since
    the creation was sent, if its answer was lost. `boots` is the version whose boot the prediction may wait for, and
    `started` whether it has started since.

    A call is admitted by its `account` and `model`, its `tokens` and its `micro_usd`: upper bounds, until the upstream
    has counted them. A creation has none of these. A call has `started` once the upstream has accepted it.
    """

    id: str
    process: str | None = None
    caller: str
    batch: str | None = None
    max_concurrent: int | None = None
    semaphore: str | None = None
    state: int = LeaseState.WANTED
    reference: str | None = None
    sent_ago: float | None = None
    boots: str | None = None
    started: bool = False
    account: str | None = None
    model: str | None = None
    tokens: int | None = None
    micro_usd: int | None = None


Record = (
    GenerationRecord
    | AttemptRecord
    | BatchRecord
    | KeyRecord
    | Delivery
    | UsageRecord
    | SemaphoreRecord
    | SemaphoreLeaseRecord
    | SchemaRecord
    | ModelRecord
    | LookupRecord
    | RunRecord
    | TrainedModelRecord
    | MetaRecord
    | LeaseRecord
    | BudgetRecord
    | ApiKeyRecord
    | SpendingRecord
    | AuditRecord
    | LostCallRecord
)


_OWNED: Final = GenerationRecord | BatchRecord | KeyRecord | Delivery | LeaseRecord
"""Records that name a process."""


def owned(record: Record, process: str | None) -> Record:
    """The record as one of this process, if several share the ledger. A suspended generation belongs to none."""
    if process is None or not isinstance(record, _OWNED):
        return record
    is_suspended = isinstance(record, GenerationRecord) and record.suspended_at is not None
    return replace(record, process=None if is_suspended else process)


def with_attempts(record: Record) -> Sequence[Record]:
    """A record, and its attempts if it is a generation."""
    return (record, *record.attempts) if isinstance(record, GenerationRecord) else (record,)
