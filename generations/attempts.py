"""The attempts of a generation: those of this process in memory, and those that had finished in an earlier one.

The loop's clock measures durations in seconds; stored dates are Unix times.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from catalog.adaptation import Change, Step
from catalog.model import Model
from catalog.outputs import Produced
from catalog.prices import LONGEST, NO_METRICS, Basis
from catalog.texts.runnable import CallModel
from concurrency import Lease
from contract.providers import TRAININGS
from errors import OutcomeUnknown, ServiceError
from generations.call_state import CallState
from generations.costs import charge, measured
from ledger.records import AttemptRecord, Failure
from providers import Prediction


@dataclass(eq=False, slots=True)
class Attempt:
    """One attempt with one model: one admission, and at most one prediction.

    `sent` is the input that the provider gets: `input` with the addresses of uploaded images in their place.
    `held_seconds` and `answer_seconds` run from admission to the release of the slot, and to the answer to the
    creation, or to the first of the text of a call. `submitted_at` and `answered_at` are Unix times of the
    creation. `clock_skew` is how many seconds the provider's clock was ahead at `submitted_at`, if known.
    `passed_over` means that the model was not called, for the reason in `error`. An `unrecoverable` attempt could
    not be searched for. `lease` is its slot and its place in the window while it holds them. `waited` are the
    seconds from the answer to its creation to the start of its prediction, once that was seen to run. `missing`
    numbers the files that did not exist when they were fetched. `longest` is how many seconds its prediction may
    take from its creation. A call has its state in `call` instead of a prediction.
    """

    model: Model
    input: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    sent: Mapping[str, Any] = field(init=False)
    prediction: Prediction | None = None
    error: ServiceError | None = None
    held_seconds: float = 0.0
    answer_seconds: float = 0.0
    submitted_at: float | None = None
    clock_skew: float | None = None
    answered_at: float | None = None
    fingerprint: str = ""
    passed_over: bool = False
    unrecoverable: bool = False
    lease: Lease | None = None
    waited: float | None = None
    missing: Collection[int] = ()
    longest: float = LONGEST
    call: CallState | None = None
    _charged: tuple[Prediction, Collection[int], float] | None = None
    """The cost, and the prediction and missing outputs that it is of: it is read at each change of the record."""

    def __post_init__(self) -> None:
        self.sent = self.input

    @classmethod
    def resumed(cls, record: AttemptRecord, step: Step, longest: float) -> "Attempt":
        """The open attempt of an earlier process."""
        attempt = cls(step.model, step.input, step.changes, longest=longest)
        attempt.submitted_at, attempt.answered_at = record.submitted_at, record.answered_at
        attempt.fingerprint, attempt.clock_skew = record.fingerprint, record.clock_skew
        if record.prompt_tokens is not None and isinstance(step.model, CallModel):
            bound = step.model.bound_of(step.input, record.prompt_tokens)
            attempt.call = CallState(record.prompt_tokens, bound)
        if record.prediction_id is not None:
            since = record.answered_at or record.submitted_at or 0.0
            created_at = record.created_at
            attempt.prediction = Prediction(
                record.prediction_id,
                "starting",
                created_at=None if created_at is None else datetime.fromtimestamp(created_at, UTC),
                age=max(0.0, time.time() - since),
                form=step.model.output,
            )
        return attempt

    @property
    def prediction_id(self) -> str | None:
        if self.call is not None:
            return self.call.response_id
        return self.prediction.id if self.prediction else None

    @property
    def produced(self) -> Produced:
        """What it has made, without the files known to be missing."""
        return self.prediction.produced.without(self.missing) if self.prediction else Produced()

    @property
    def made(self) -> tuple[Any, ...]:
        """Its outputs as a caller gets them, without those known to be missing."""
        return self.produced.values

    @property
    def cost(self) -> float:
        """USD. An unknown outcome counts as billed."""
        if self.call is not None:
            return self.call.usd
        if self.prediction is None:
            is_unknown = self.unrecoverable or isinstance(self.error, OutcomeUnknown)
            return self.model.bound(self.sent, longest=self.longest) if is_unknown else 0.0
        if (
            self._charged is None
            or self._charged[0] is not self.prediction
            or self._charged[1] is not self.missing
        ):
            # An object is one output, whose files were each made.
            made = len(self.produced.files) or len(self.made)
            usd = charge(self.model, self.sent, self.prediction, made=made, longest=self.longest)
            self._charged = self.prediction, self.missing, usd
        return self._charged[2]

    @property
    def has_files(self) -> bool:
        """Whether its outputs may be files to fetch. A call is its own answer, and a training makes a model."""
        return self.call is None and self.model.provider != TRAININGS

    @property
    def is_charged(self) -> bool:
        """Whether it counts in the cost, although that may round to 0."""
        return self.cost > 0 or (self.prediction is not None and self.prediction.has_succeeded)

    @property
    def basis(self) -> Basis:
        """How its cost is known."""
        if self.call is not None:
            return "bounded" if self.call.micro_usd is None else "declared"
        return self.model.basis(measured(self.model, self.prediction) if self.prediction else NO_METRICS)

    @property
    def running_seconds(self) -> float | None:
        """The measured seconds for which its prediction ran, if it succeeded and its model is billed by them."""
        if self.prediction is None or not (self.model.bills_running and self.prediction.has_succeeded):
            return None
        return self.model.billing.counted(measured(self.model, self.prediction))

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return 0.0 if self.submitted_at is None else max(0.0, time.time() - self.submitted_at)

    @property
    def boot_seconds(self) -> float:
        """How long its prediction has waited for its start, if its model may have to boot: 0 until it is known."""
        if self.model.boots is None or self.prediction is None:
            return 0.0
        return self.prediction.waited or self.waited or 0.0

    @property
    def is_open(self) -> bool:
        """Whether it may have started a prediction whose end is unknown."""
        return self.submitted_at is not None and self.error is None

    @property
    def is_searched_for(self) -> bool:
        """Whether the answer to its creation was lost and a search for its prediction is running."""
        return self.lease is not None and self.lease.is_in_doubt

    @property
    def seed(self) -> int | None:
        """The seed that its model has used: as the model reports it, else as it was sent. A negative one often
        means any seed."""
        if self.prediction is not None and self.prediction.seed is not None:
            return self.prediction.seed
        sent = self.sent.get("seed")
        return sent if isinstance(sent, int) and not isinstance(sent, bool) and sent >= 0 else None

    def record(self, generation_id: str, number: int) -> AttemptRecord:
        created_at = self.prediction.created_at if self.prediction else None
        call = self.call
        usage = call.usage if call else None
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
            seed=None if self.passed_over or self.seed is None else str(self.seed),
            prompt_tokens=call.tokens if call else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            thinking_tokens=usage.thinking_tokens if usage else None,
            model_version=call.version if call else None,
            finish_reason=call.finish_reason if call else None,
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
    def is_charged(self) -> bool:
        return self.cost > 0

    @property
    def basis(self) -> Basis:
        return "declared" if self.kept.completion_tokens is not None else self.model.basis()

    @property
    def passed_over(self) -> bool:
        return self.kept.passed_over

    def record(self, generation_id: str, number: int) -> AttemptRecord:  # noqa: ARG002 - as `Attempt` has it
        return self.kept


def failure(error: ServiceError) -> Failure:
    """The record of an error."""
    problems = tuple(each.as_json() for each in error.problems) or None
    # A database cannot store half of a surrogate pair.
    return Failure(error.code, error.detail.encode(errors="replace").decode(), error.retryable, problems)
