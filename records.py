"""What is known of a generation and of a batch while they live: their states, their attempts, and the rows that the
ledger has of them. What callers are told of it is made of a row's facts (`telling.py`).

The loop's clock measures; Unix time dates what outlives the process.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

from adaptation import Change
from auth import Caller
from errors import ServiceError
from intake.shapes import GenerationRequest
from planning import Plan
from providers import Prediction
from registry import Model
from telling import ENDED, Ended, Row, State, View, dated, result, told


class Try(Protocol):
    """One try of one model, whether in this process or in one before."""

    @property
    def model(self) -> Model: ...
    @property
    def prediction_id(self) -> str | None: ...
    @property
    def cost(self) -> float: ...
    @property
    def passed_over(self) -> bool: ...
    def as_json(self) -> dict[str, Any]: ...
    def as_record(self) -> dict[str, Any]: ...


@dataclass(eq=False, slots=True)
class Attempt:
    """One try of one model: one admission, and one prediction at the most. Dates are Unix times."""

    model: Model
    input: Mapping[str, Any]
    changes: tuple[Change, ...] = ()
    sent: Mapping[str, Any] = field(init=False)
    """The input as it goes to the provider: with the addresses of images that were sent ahead."""
    prediction: Prediction | None = None
    error: ServiceError | None = None
    held: float = 0.0
    answered: float = 0.0
    """Seconds from admission until its slot was free again, and until the answer to its creation."""
    submitted_at: float | None = None
    answered_at: float | None = None
    content: str = ""
    """The fingerprint of what was sent."""
    passed_over: bool = False
    """Whether it was no try after all: `error` says why."""

    def __post_init__(self) -> None:
        self.sent = self.input

    @property
    def prediction_id(self) -> str | None:
        return self.prediction.id if self.prediction else None

    @property
    def cost(self) -> float:
        """USD. Replicate bills what was made, and what was cancelled after it had begun; no failure."""
        if self.prediction is None:
            return 0.0
        if self.prediction.is_made:
            return self.model.cost(self.sent, outputs=len(self.prediction.outputs))
        was_cut_short = self.prediction.status == "canceled" and self.prediction.started
        return self.model.cost(self.sent) if was_cut_short else 0.0

    @property
    def age(self) -> float:
        """Seconds since it was submitted."""
        return 0.0 if self.submitted_at is None else max(0.0, time.time() - self.submitted_at)

    @property
    def is_open(self) -> bool:
        """Whether something may have been started of which it is not known yet how it ended."""
        return self.submitted_at is not None and self.error is None

    def as_json(self) -> dict[str, Any]:
        return {
            "model_name": self.model.name,
            "prediction_id": self.prediction_id,
            "error": self.error and self.error.as_item(),
            "changes": [change.as_json() for change in self.changes],
        }

    def as_record(self) -> dict[str, Any]:
        made = self.prediction
        return {
            "told": self.as_json(),
            "cost": self.cost,
            "open": self.is_open,
            "submitted_at": self.submitted_at,
            "answered_at": self.answered_at,
            "content": self.content,
            "created_at": made.created_at.isoformat() if made and made.created_at else None,
            "passed_over": self.passed_over,
        }

    def go_on_from(self, record: Row) -> None:
        """Know what the process before knew of this attempt."""
        self.submitted_at, self.answered_at = record["submitted_at"], record["answered_at"]
        self.content = record["content"]
        if (prediction_id := record["told"]["prediction_id"]) is not None:
            dated, since = record["created_at"], self.answered_at or self.submitted_at or 0.0
            self.prediction = Prediction(
                prediction_id,
                "starting",
                created_at=datetime.fromisoformat(dated) if dated else None,
                age=max(0.0, time.time() - since),
            )


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that was over in a process before this one."""

    model: Model
    record: Row

    @property
    def prediction_id(self) -> str | None:
        found: str | None = self.record["told"]["prediction_id"]
        return found

    @property
    def cost(self) -> float:
        cost: float = self.record["cost"]
        return cost

    @property
    def passed_over(self) -> bool:
        passed_over: bool = self.record["passed_over"]
        return passed_over

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = self.record["told"]
        return told

    def as_record(self) -> dict[str, Any]:
        return dict(self.record)


@dataclass(eq=False, slots=True, kw_only=True)
class Generation:
    """One generation, from acceptance to its end. Times are the loop's, in seconds."""

    id: str
    request: GenerationRequest
    caller: Caller
    request_id: str
    accepted_at: float
    view: View
    written: str | None = None
    """What it is read from again in another process (`intake.attachments`)."""
    batch: str | None = None
    position: int | None = None
    born: float = field(default_factory=time.time)
    state: State = "queued"
    tries: list[Try] = field(default_factory=list)
    at: Model | None = None
    """The model whose turn it is."""
    queued: float = 0.0
    predicting: float = 0.0
    """Seconds waited for admission, and held a slot, over all attempts. Back-off between them is neither."""
    ended_at: float | None = None
    error: ServiceError | None = None
    files: tuple[str, ...] = ()
    files_error: str | None = None
    """What of its outputs is kept here, by name, and why not all of it."""
    placeholder: bool = False
    """Whether the one file is a black picture in place of what was not made; a `data:` URI if it is not kept."""
    is_wanted: bool = False
    """Whether it goes on when nobody waits for it: somebody can come back for it."""
    is_cancelled: bool = False
    """Whether nobody wants it any more. A life that ends early without this is only interrupted."""
    is_on_record: bool = False
    reserved: float = 0.0
    """USD of the budget that it may still cost."""
    progress: float | None = None
    """Per cent, as its model printed it last."""
    listeners: list[Callable[["Generation"], object]] = field(default_factory=list)
    """Told of every transition and progress, on the loop."""

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
    def attempts(self) -> int:
        return len(self.tries)

    @property
    def last(self) -> Attempt | None:
        """The attempt that is being made here, or was made last."""
        last = self.tries[-1] if self.tries else None
        return last if isinstance(last, Attempt) else None

    @property
    def model(self) -> Model:
        """The model that ran last, or that would have been the first."""
        return self._ran_last.model if self._ran_last else self.at or self.request.model

    @property
    def prediction(self) -> Prediction | None:
        return self.last.prediction if self.last else None

    @property
    def prediction_id(self) -> str | None:
        return self._ran_last.prediction_id if self._ran_last else None

    @property
    def _ran_last(self) -> Try | None:
        return next((each for each in reversed(self.tries) if not each.passed_over), None)

    @property
    def cost(self) -> float:
        """USD, over all attempts."""
        return round(sum((attempt.cost for attempt in self.tries), 0.0), 6)

    def result(self, view: View) -> dict[str, Any]:
        """What the caller is told once it has ended."""
        return result(self.facts(), view)

    def told(self, view: View) -> dict[str, Any]:
        """What is told of it however it stands, beside an error too."""
        return told(self.facts(), view)

    def facts(self) -> dict[str, Any]:
        """What is told of it, for any view."""
        made = self.prediction.outputs if self.prediction and self.error is None and self.has_ended else ()
        return {
            "id": self.id,
            "status": self.state,
            "model_name": self.model.name,
            "requested_model": self.request.requested_model,
            "prompt": self.request.prompt,
            "prediction_id": self.prediction_id,
            "attempts": [each.as_json() for each in self.tries] if self.request.route else self.attempts,
            "files": self.files,
            "files_error": self.files_error,
            "file_name": self.request.file_name,
            "placeholder": self.placeholder,
            "cost_usd": self.cost,
            "timing": {name: round(seconds, 3) for name, seconds in self._timing().items()},
            "error": self.error and self.error.as_item(),
            "output": made,
            "batch_id": self.batch,
            "created_at": dated(self.born),
        }

    def row(self) -> dict[str, Any]:
        """The whole of it, for the ledger (`tables.GENERATIONS`)."""
        now, over, facts = time.time(), self.has_ended, self.facts()
        images, seconds = self._made() if over else (0, 0.0)
        return {
            "id": self.id,
            "caller": self.caller.id,
            "batch": self.batch,
            "position": self.position,
            "state": self.state,
            "model": (self.model if over else self.at or self.model).name,
            "request": None if over else self.written,
            "request_id": self.request_id,
            "webhook": self.webhook,
            "address": self.view.address,
            "simulated": self.view.simulated,
            "accepted_at": self.born,
            "changed_at": now,
            "ended_at": now if over else None,
            "interrupted_at": None,
            "tries": json.dumps([each.as_record() for each in self.tries]),
            "facts": json.dumps(facts),
            "succeeded": self.succeeded,
            "cost_usd": facts["cost_usd"],
            "images": images,
            "video_seconds": seconds,
            "credits": self.model.credits if self.succeeded else 0,
        }

    def _made(self) -> tuple[int, float]:
        """Pictures, and seconds of video."""
        if not self.succeeded or self.last is None or self.prediction is None:
            return 0, 0.0
        outputs = len(self.prediction.outputs)
        if self.model.kind == "image":
            return outputs, 0.0
        return 0, outputs * float(self.last.sent.get("duration") or self.model.default("duration") or 0)

    def _timing(self) -> dict[str, float]:
        took = time.time() - self.born if self.ended_at is None else self.ended_at - self.accepted_at
        return {"queued": self.queued, "predicting": self.predicting, "total": took}


@dataclass(eq=False, slots=True, kw_only=True)
class Batch:
    """Generations that were asked for together, in input order, and how it was thought to go. Times are the loop's."""

    id: str
    generations: Sequence[Generation | Ended]
    caller: Caller
    max_concurrent: int | None
    plan: Plan
    accepted_at: float
    view: View
    written: str = "{}"
    """What its items share, as `Generation.written`."""
    webhook: str | None = None
    born: float = field(default_factory=time.time)
    ended_at: float | None = None
    is_wanted: bool = False

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    def summary(self) -> dict[str, Any]:
        succeeded = sum(generation.succeeded for generation in self.generations)
        ended = sum(generation.has_ended for generation in self.generations)
        total = len(self.generations)
        return {
            "success": succeeded == total,
            "id": self.id,
            "total": total,
            "succeeded": succeeded,
            "failed": ended - succeeded,
            **self.plan.as_json(),
            "actual_seconds": self._seconds(),
            "actual_cost_usd": round(sum(generation.cost for generation in self.generations), 6),
        }

    def item(self, index: int, view: View) -> dict[str, Any]:
        return {"index": index, **self.generations[index].result(view)}

    def row(self) -> dict[str, Any]:
        """The whole of it, for the ledger (`tables.BATCHES`)."""
        return {
            "id": self.id,
            "caller": self.caller.id,
            "total": len(self.generations),
            "request": self.written,
            "max_concurrent": self.max_concurrent,
            "webhook": self.webhook,
            "plan": json.dumps(asdict(self.plan)),
            "address": self.view.address,
            "simulated": self.view.simulated,
            "accepted_at": self.born,
            "ended_at": self.born + self._seconds() if self.has_ended else None,
        }

    def _seconds(self) -> float:
        """How long it took, or has taken so far, to the millisecond: the same when it is read from its row again."""
        return round(
            time.time() - self.born if self.ended_at is None else self.ended_at - self.accepted_at, 3
        )
