"""A generation in memory, and the record that the ledger keeps of it.

The loop's clock measures durations in seconds; stored dates are Unix times.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from auth import Caller
from catalog.model import Model
from catalog.prices import NO_METRICS, seconds, weakest
from contract.ids import is_training_id
from contract.states import ENDED, State
from errors import ServiceError
from errors.calls import QuotaExhausted
from generations.attempts import Attempt, FinishedAttempt, failure
from ledger import Ledger
from ledger.records import CALL_COUNTS, AttemptRecord, GenerationRecord
from media.formats import Kind
from parsing.shapes import GenerationRequest
from providers import Prediction

_LAZILY: Final = 1.0
"""Seconds after which a state is recorded that a restart does not need. Most work has left it by then."""


@dataclass(eq=False, slots=True, weakref_slot=True, kw_only=True)
class Generation:
    """One generation, from acceptance to its end.

    `accepted_at` and `ended_at` are times of the loop, `created_at` is the Unix time of acceptance. `address` is
    the base URL under which its caller reached this service. `request_json` is the request as text, which another
    process parses again. `next_model` is the model of the current or next attempt. `queued_seconds` and
    `predicting_seconds` add up all attempts, without the backoff between them; an interrupted attempt counts from its
    submission. `files` are the names of the stored files, and `files_error` says why some are missing. `outputs` are
    those that the caller gets, and `kinds` those of all files that were made. With a `placeholder`, the only file is a
    black image in place of the output, or its `data:` URI if it could not be stored. A `detached` generation continues
    without a waiting caller. If the `secrets_lost` were of an earlier process, it sends nothing more. A run that stops
    without `is_cancelled` was only interrupted. `persisted` is true once its record is on the disk. `reserved_usd` is
    reserved in the budget: its cost so far, and the most that it may still cost. `progress` is the last percentage that
    its model printed. `door`, `door_facts` and `body_fingerprint` are as in its record. `notes` are further warnings
    about its answer, and `text` is that of an answer that is no success. The `verdict` is as in its record. `logs` are
    the end of the logs of a training so far. `listeners` are called on the loop when the state changes, and
    `deltas` with each piece of a text as it comes.
    """

    id: str
    request: GenerationRequest
    caller: Caller
    request_id: str
    accepted_at: float
    address: str
    simulated: bool
    request_json: str
    batch_id: str | None = None
    position: int | None = None
    semaphore: str | None = None
    secrets_lost: bool = False
    created_at: float = field(default_factory=time.time)
    state: State = "queued"
    attempts: list[Attempt | FinishedAttempt] = field(default_factory=list)
    next_model: Model | None = None
    queued_seconds: float = 0.0
    predicting_seconds: float = 0.0
    ended_at: float | None = None
    error: ServiceError | None = None
    files: tuple[str, ...] = ()
    files_error: str | None = None
    outputs: tuple[Any, ...] = ()
    kinds: tuple[Kind, ...] = ()
    placeholder: bool = False
    detached: bool = False
    is_cancelled: bool = False
    persisted: bool = False
    reserved_usd: float = 0.0
    progress: float | None = None
    door: str | None = None
    door_facts: str | None = None
    body_fingerprint: str | None = None
    notes: tuple[str, ...] = ()
    text: str | None = None
    verdict: str | None = None
    logs: str | None = None
    deltas: list[Callable[[str], object]] = field(default_factory=list)
    _final: GenerationRecord | None = None
    listeners: list[Callable[["Generation"], object]] = field(default_factory=list)

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
        """The last attempt, unless it had finished in an earlier process."""
        last = self.attempts[-1] if self.attempts else None
        return last if isinstance(last, Attempt) else None

    @property
    def model(self) -> Model:
        """The model that was called last, or the next one if none was called."""
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
    def kind(self) -> Kind | None:
        """The kind of its outputs, None if that is not known before they are made."""
        model = self.model
        if model.output.is_media:
            return model.kind
        if not self.succeeded:
            return model.output.kind
        media = [each for each in self.kinds if each not in {"text", "data"}]
        is_text = {*self.kinds} <= {"text"} and all(isinstance(each, str) for each in self.outputs)
        return media[0] if media else "text" if is_text else "data"

    @property
    def _last_called(self) -> Attempt | FinishedAttempt | None:
        for each in reversed(self.attempts):
            if not each.passed_over:
                return each
        return None

    @property
    def cost_usd(self) -> float:
        """USD, over all attempts."""
        return round(sum((attempt.cost for attempt in self.attempts), 0.0), 6)

    @property
    def cost_basis(self) -> str:
        """How its cost is known: as the least certain of its attempts that cost anything."""
        return weakest((each.basis for each in self.attempts if each.is_charged), self.model.basis())

    @property
    def is_in_doubt(self) -> bool:
        """Whether its last attempt may have made a prediction whose id is not known."""
        return self.last is not None and self.last.is_open and self.last.prediction is None

    def follow_text(self, on_delta: Callable[[str], object]) -> None:
        """Call this with each piece of its text from now on, and with the text that has come already."""
        call = self.last.call if self.last else None
        if call is not None and call.text and not self.has_ended:
            on_delta(call.text)
        self.deltas.append(on_delta)

    def show_progress(self, percentage: float) -> None:
        """Show how far its model has come. The progress of a training never falls."""
        if not is_training_id(self.id) or percentage >= (self.progress or 0.0):
            self.progress = percentage

    def transition(self, state: State, ledger: Ledger, *, lazily: bool = False) -> None:
        """Enter a state and mark the record as changed. To act on it, wait for `ledger.flush()` first. With `lazily`,
        it is only marked a second later, if it is still in that state."""
        changed, self.state = self.state != state, state
        if state in {"queued", "submitting"}:
            self.progress = None  # of an earlier attempt
        if lazily:
            asyncio.get_running_loop().call_later(_LAZILY, self._mark_if_still, state, ledger)
        else:
            ledger.mark_dirty(self)
        if changed:
            for listener in self.listeners:
                listener(self)

    def _mark_if_still(self, state: State, ledger: Ledger) -> None:
        if self.state == state:
            ledger.mark_dirty(self)

    def record(self) -> GenerationRecord:
        """Its record as it is now. After the end it is made once, and changes only by `amend`."""
        if self._final is not None:
            return self._final
        record = self._record()
        if self.has_ended:
            self._final = record
        return record

    def amend(self, record: GenerationRecord) -> None:
        """Replace the record after the end, when a late prediction has added to it."""
        self._final = record

    def _record(self) -> GenerationRecord:
        over = self.has_ended
        model = self.model if over else self.next_model or self.model
        took = time.time() - self.created_at if self.ended_at is None else self.ended_at - self.accepted_at
        attempts = tuple(each.record(self.id, number) for number, each in enumerate(self.attempts, 1))
        return GenerationRecord(
            id=self.id,
            caller_id=self.caller.id,
            batch_id=self.batch_id,
            position=self.position,
            state=self.state,
            model=model.name,
            version=model.version,
            requested_model=self.request.requested_model,
            prompt=self.request.prompt,
            file_name=self.request.file_name,
            lists_attempts=self.request.route is not None,
            request=None if over else self.request_json,
            request_id=self.request_id,
            webhook=self.request.webhook,
            address=self.address,
            simulated=self.simulated,
            accepted_at=self.created_at,
            cancelled=self.is_cancelled,
            queued_seconds=round(self.queued_seconds, 3),
            predicting_seconds=round(self.predicting_seconds, 3),
            total_seconds=round(took, 3),
            kind=self.kind,
            files=self.files,
            files_error=self.files_error,
            placeholder=self.placeholder,
            error=failure(self.error) if self.error else None,
            cost_usd=self.cost_usd,
            reserved_usd=0.0 if over else self.reserved_usd,
            semaphore=self.semaphore,
            cost_basis=self.cost_basis,
            warnings=(*self.request.warnings, *self.notes),
            metadata=self.request.metadata_json,
            has_secrets=bool(self.request.secrets) or self.secrets_lost,
            door=self.door,
            door_facts=self.door_facts,
            body_fingerprint=self.body_fingerprint,
            verdict=self.verdict,
            attempts=attempts,
            **(self._at_end(model, attempts) if over else {}),
        )

    def _at_end(self, model: Model, attempts: Iterable[AttemptRecord]) -> dict[str, Any]:
        """What its record has only after its end."""
        images, seconds = self._made()
        return {
            "ended_at": time.time(),
            "outputs": () if self.error else self.outputs,
            "images": images,
            "video_seconds": seconds,
            "credits": model.credits if self.succeeded else 0,
            "text": self.text,
            "resets_at": self.error.resets_at if isinstance(self.error, QuotaExhausted) else None,
            **counts_of(attempts),
        }

    def _made(self) -> tuple[int, float]:
        """The number of images, and the seconds of video."""
        if not self.succeeded or self.last is None:
            return 0, 0.0
        films, prediction = self.kinds.count("video"), self.last.prediction
        counted = prediction.metrics if prediction and films == 1 else NO_METRICS
        length = seconds(self.last.sent, self.model, counted) if films else 0.0
        return self.kinds.count("image"), films * length


def counts_of(attempts: Iterable[AttemptRecord]) -> dict[str, Any]:
    """The number of calls that were sent, and the sums of their tokens."""
    sent = [each for each in attempts if each.is_call and each.submitted_at is not None]
    tokens = {name: sum(getattr(each, name) or 0 for each in sent) for name in CALL_COUNTS if name != "calls"}
    return {"calls": len(sent), **tokens}


Item = Generation | GenerationRecord
"""A generation in memory, or one that has ended or runs in another process."""
