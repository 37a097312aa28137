"""A generation and its attempts while they are in memory, and the records that the ledger keeps of them.

The loop's clock measures durations; stored dates are Unix times.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from auth import Caller
from catalog.adaptation import Change, Step
from catalog.model import Model
from concurrency import Lease
from contract.states import ENDED, State
from errors import InvalidRequest, OutcomeUnknown, ServiceError
from ledger import Ledger
from ledger.records import AttemptRecord, Failure, GenerationRecord
from parsing.shapes import GenerationRequest
from providers import Prediction, Url


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt with one model: one admission, and at most one prediction. Dates are Unix times."""

    model: Model
    input: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    sent: Mapping[str, Any] = field(init=False)
    """The input as the provider gets it: uploaded images are replaced by their addresses."""
    prediction: Prediction | None = None
    error: ServiceError | None = None
    held: float = 0.0
    answered: float = 0.0
    """Seconds from admission to the release of the slot, and to the answer of the creation."""
    submitted_at: float | None = None
    clock_skew: float | None = None
    """Seconds by which the provider's clock was ahead then, if that was known."""
    answered_at: float | None = None
    fingerprint: str = ""
    passed_over: bool = False
    """The model was not called, for the reason in `error`."""
    unrecoverable: bool = False
    """The upstream could not be searched for the prediction of this attempt."""
    lease: Lease | None = None
    """Its slot and place, while it has them."""
    missing: Collection[int] = ()
    """The numbers of its pictures or films that turned out not to exist when they were fetched."""

    def __post_init__(self) -> None:
        self.sent = self.input

    @classmethod
    def resumed(cls, record: AttemptRecord, step: Step) -> "Attempt":
        """The attempt of an earlier process, as the ledger has it."""
        attempt = cls(step.model, step.input, step.changes)
        attempt.submitted_at, attempt.answered_at = record.submitted_at, record.answered_at
        attempt.fingerprint, attempt.clock_skew = record.fingerprint, record.clock_skew
        if record.prediction_id is not None:
            since = record.answered_at or record.submitted_at or 0.0
            created_at = record.created_at
            attempt.prediction = Prediction(
                record.prediction_id,
                "starting",
                created_at=None if created_at is None else datetime.fromtimestamp(created_at, UTC),
                age=max(0.0, time.time() - since),
            )
        return attempt

    @property
    def prediction_id(self) -> str | None:
        return self.prediction.id if self.prediction else None

    @property
    def made(self) -> tuple[Url, ...]:
        """Its pictures or films that exist, as far as is known."""
        media = self.prediction.media if self.prediction else ()
        return tuple(each for number, each in enumerate(media) if number not in self.missing)

    @property
    def cost(self) -> float:
        """USD. An unknown outcome counts as billed."""
        if self.prediction is None:
            is_unknown = self.unrecoverable or isinstance(self.error, OutcomeUnknown)
            return self.model.cost(self.sent) if is_unknown else 0.0
        if self.prediction.has_succeeded:
            # A text in place of a picture costs nothing by the picture, and all of a price by the call.
            billed = self.made if self.model.price.per == "image" else self.prediction.outputs
            return self.model.cost(self.sent, outputs=len(billed))
        return self.model.cost(self.sent) if self.prediction.may_be_billed else 0.0

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return 0.0 if self.submitted_at is None else max(0.0, time.time() - self.submitted_at)

    @property
    def is_open(self) -> bool:
        """Whether it may have started a prediction whose end is unknown."""
        return self.submitted_at is not None and self.error is None

    @property
    def is_searched_for(self) -> bool:
        """Whether its creation is searched for, since no answer shows whether it arrived."""
        return self.lease is not None and self.lease.is_in_doubt

    def record(self, generation_id: str, number: int) -> AttemptRecord:
        created_at = self.prediction.created_at if self.prediction else None
        return AttemptRecord(
            generation_id=generation_id,
            number=number,
            model=self.model.name,
            prediction_id=self.prediction_id,
            error=failure(self.error) if self.error else None,
            changes=tuple(change.as_json() for change in self.changes),
            cost_usd=self.cost,
            open=self.is_open,
            submitted_at=self.submitted_at,
            answered_at=self.answered_at,
            fingerprint=self.fingerprint,
            created_at=created_at.timestamp() if created_at else None,
            passed_over=self.passed_over,
            clock_skew=self.clock_skew,
        )


@dataclass(frozen=True, slots=True)
class FinishedAttempt:
    """An attempt that had finished in an earlier process."""

    model: Model
    kept: AttemptRecord

    @property
    def prediction_id(self) -> str | None:
        return self.kept.prediction_id

    @property
    def cost(self) -> float:
        return self.kept.cost_usd

    @property
    def passed_over(self) -> bool:
        return self.kept.passed_over

    def record(self, generation_id: str, number: int) -> AttemptRecord:  # noqa: ARG002 - as `Attempt` has it
        return self.kept


@dataclass(eq=False, slots=True, weakref_slot=True, kw_only=True)
class Generation:
    """One generation, from acceptance to its end. Times are the loop's, in seconds."""

    id: str
    request: GenerationRequest
    caller: Caller
    request_id: str
    accepted_at: float
    address: str
    """Where its caller reached this service."""
    simulated: bool
    request_json: str
    """The text that it is parsed from again in another process (`parsing.attachments`)."""
    batch_id: str | None = None
    position: int | None = None
    born: float = field(default_factory=time.time)
    """When it was accepted, as a Unix time."""
    state: State = "queued"
    attempts: list[Attempt | FinishedAttempt] = field(default_factory=list)
    next_model: Model | None = None
    queued: float = 0.0
    predicting: float = 0.0
    """Seconds in the queue, and seconds that a slot was held, over all attempts. An attempt that a stop interrupted
    counts from its submission. Backoff between attempts is neither."""
    ended_at: float | None = None
    error: ServiceError | None = None
    files: tuple[str, ...] = ()
    files_error: str | None = None
    """The names of the outputs that are kept here, and why some are not."""
    placeholder: bool = False
    """The only file is a black picture in place of the missing output; a `data:` URI if it could not be kept."""
    detached: bool = False
    """It continues without a waiting caller, who can fetch it later."""
    is_cancelled: bool = False
    """It was cancelled. A run that stops early without this was only interrupted."""
    persisted: bool = False
    reserved: float = 0.0
    """USD of the budget that are held for it: its cost so far and its possible further cost."""
    progress: float | None = None
    """Per cent, as its model printed it last."""
    listeners: list[Callable[["Generation"], object]] = field(default_factory=list)
    """Called at every change of state, on the loop."""

    @property
    def caller_id(self) -> str:
        return self.caller.id

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def webhook(self) -> str | None:
        return self.request.webhook

    @property
    def last(self) -> Attempt | None:
        """The last attempt, if this process makes or made it."""
        last = self.attempts[-1] if self.attempts else None
        return last if isinstance(last, Attempt) else None

    @property
    def model(self) -> Model:
        """The model that was called last, or else the one that is next."""
        called = self._last_called
        return called.model if called else self.next_model or self.request.model

    @property
    def prediction(self) -> Prediction | None:
        return self.last.prediction if self.last else None

    @property
    def prediction_id(self) -> str | None:
        called = self._last_called
        return called.prediction_id if called else None

    @property
    def _last_called(self) -> Attempt | FinishedAttempt | None:
        return next((each for each in reversed(self.attempts) if not each.passed_over), None)

    @property
    def cost_usd(self) -> float:
        """USD, over all attempts."""
        return round(sum((attempt.cost for attempt in self.attempts), 0.0), 6)

    @property
    def is_in_doubt(self) -> bool:
        """Whether its last attempt may have made a prediction whose id is not known."""
        return self.last is not None and self.last.is_open and self.last.prediction is None

    def transition(self, state: State, ledger: Ledger) -> None:
        """Enter a state and mark the record as changed. To act on it, wait for `ledger.flush()` first."""
        changed, self.state = self.state != state, state
        if state in {"queued", "submitting"}:
            self.progress = None  # an earlier attempt's
        ledger.mark_dirty(self)
        if changed:
            for listener in self.listeners:
                listener(self)

    def record(self) -> GenerationRecord:
        over = self.has_ended
        images, seconds = self._made() if over else (0, 0.0)
        took = time.time() - self.born if self.ended_at is None else self.ended_at - self.accepted_at
        return GenerationRecord(
            id=self.id,
            caller_id=self.caller.id,
            batch_id=self.batch_id,
            position=self.position,
            state=self.state,
            model=(self.model if over else self.next_model or self.model).name,
            requested_model=self.request.requested_model,
            prompt=self.request.prompt,
            file_name=self.request.file_name,
            lists_attempts=self.request.route is not None,
            request=None if over else self.request_json,
            request_id=self.request_id,
            webhook=self.request.webhook,
            address=self.address,
            simulated=self.simulated,
            accepted_at=self.born,
            ended_at=time.time() if over else None,
            cancelled=self.is_cancelled,
            queued_seconds=round(self.queued, 3),
            predicting_seconds=round(self.predicting, 3),
            total_seconds=round(took, 3),
            outputs=self._outputs() if over else (),
            files=self.files,
            files_error=self.files_error,
            placeholder=self.placeholder,
            error=failure(self.error) if self.error else None,
            cost_usd=self.cost_usd,
            reserved_usd=0.0 if over else self.reserved,
            images=images,
            video_seconds=seconds,
            credits=self.model.credits if self.succeeded else 0,
            attempts=tuple(each.record(self.id, number) for number, each in enumerate(self.attempts, 1)),
        )

    def _outputs(self) -> tuple[str, ...]:
        if self.last is None or self.error is not None:
            return ()
        return tuple(each.value for each in self.last.made)

    def _made(self) -> tuple[int, float]:
        """The number of pictures, and seconds of video."""
        if not self.succeeded or self.last is None:
            return 0, 0.0
        outputs = len(self.last.made)
        if self.model.kind == "image":
            return outputs, 0.0
        return 0, outputs * float(self.last.sent.get("duration") or self.model.default("duration") or 0)


def failure(error: ServiceError) -> Failure:
    """An error as the ledger keeps it."""
    problems = None
    if isinstance(error, InvalidRequest):
        problems = tuple(problem.as_json() for problem in error.problems)
    # Half of a surrogate pair is no text to a database.
    return Failure(error.code, error.detail.encode(errors="replace").decode(), error.retryable, problems)
