"""The facts that the ledger keeps: one frozen record a row, and one column a field (`ledger/tables.py`).

Moments are Unix times in seconds, durations are seconds, amounts are USD. A record holds facts and no wording: the
bodies of answers are made from records when they are read (`generations/views.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from contract.states import ENDED, State

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation or an attempt failed. `problems` lists the fields at fault, for `invalid_request` only."""

    code: str
    detail: str
    retryable: bool
    problems: tuple[Json, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One attempt of a generation with one model. `number` counts from 1.

    `open` is true while the attempt may have started a prediction whose end is unknown. `fingerprint` identifies the
    input that was sent. `created_at` is the upstream's own date of the prediction. A model that was `passed_over` was
    not called: `error` gives the reason. `clock_skew` is how many seconds the upstream's clock was ahead of ours at
    `submitted_at`, if that was known.
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

    @property
    def is_in_doubt(self) -> bool:
        """Whether it was submitted, and it is not known whether that made a prediction."""
        return self.open and self.submitted_at is not None and self.prediction_id is None

    @property
    def may_have_created(self) -> bool:
        """Whether it made a prediction, or may have. One whose outcome is unknown has a cost."""
        return self.prediction_id is not None or self.is_in_doubt or self.cost_usd > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord:
    """One generation. `seq` is the order of acceptance, None until the ledger has written the record.

    `model` made it, failed last, or is next. `request` is the text from which it is parsed again after a restart; it
    goes when the generation has ended. `lists_attempts` is true if the request had a `fallback`: its answers list the
    attempts instead of counting them. `address` is where its caller reached this service.
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
    outputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    files_error: str | None = None
    placeholder: bool = False
    error: Failure | None = None
    cost_usd: float = 0.0
    reserved_usd: float = 0.0
    images: int = 0
    video_seconds: float = 0.0
    credits: int = 0
    attempts: tuple[AttemptRecord, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def last_called(self) -> AttemptRecord | None:
        """The last attempt whose model was called."""
        return next((each for each in reversed(self.attempts) if not each.passed_over), None)

    @property
    def may_be_paid(self) -> bool:
        """Whether a prediction was made for it, or may have been."""
        return self.cost_usd > 0 or any(each.may_have_created for each in self.attempts)

    @property
    def prediction_id(self) -> str | None:
        return self.last_called.prediction_id if self.last_called else None

    def record(self) -> "GenerationRecord":
        """Itself: a generation in memory and a stored one are read in the same way."""
        return self


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """How a batch was expected to go when it was accepted: seconds, USD and credits."""

    strategy: str
    seconds: float
    cost_usd: float
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """One batch. `request` is the part of its body that all items share, as text."""

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


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A caller's idempotency key, and the generation or batch that it stands for."""

    caller_id: str
    key: str
    fingerprint: str
    work_id: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result to be posted to `url`. `since` is when the result was there.

    `next_at` is the moment of the next attempt; None in a new delivery means at once. `trouble` says why the last
    attempt failed, in words for the caller.
    """

    id: str
    url: str
    since: float
    state: Literal["pending", "delivered", "failed"] = "pending"
    attempts: int = 0
    next_at: float | None = None
    trouble: str | None = None
    delivered_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """What forgotten generations add up to: those of one caller with one model that ended on one `day` (UTC, counted
    from 1970). The figures are those of `GET /usage`."""

    day: int
    caller_id: str
    model: str
    simulated: bool
    generations: int
    succeeded: int
    failures: int
    canceled: int
    images: int
    video_seconds: float
    usd: float
    credits: int


@dataclass(frozen=True, slots=True)
class MetaRecord:
    """Something that the ledger remembers for the service itself."""

    name: str
    value: bytes


Record = GenerationRecord | AttemptRecord | BatchRecord | KeyRecord | Delivery | UsageRecord | MetaRecord
