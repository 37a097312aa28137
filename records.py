"""What is known of a generation and of a batch while they live: their states, and the rows that the ledger has of
them. What callers are told of it is made of a row's facts (`telling.py`).

The loop's clock measures; Unix time dates what outlives the process.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from admission.forecast import Plan
from auth import Caller
from errors import ServiceError
from intake.shapes import GenerationRequest
from providers import Prediction
from registry import Model
from telling import ENDED, Recorded, State, View, dated, result, told
from tries import Attempt, Try


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
    """Seconds waited for admission, and held a slot, over all attempts; of one that a stop interrupted, since it was
    sent. Back-off between them is neither."""
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
    """USD of the budget that are held for it: what it has cost so far and may still."""
    progress: float | None = None
    """Per cent, as its model printed it last."""
    listeners: list[Callable[["Generation"], object]] = field(default_factory=list)
    """Told of every transition, on the loop."""

    @property
    def owner(self) -> str:
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
            "ended_at": now if over else None,
            "cancelled": self.is_cancelled,
            "interrupted_at": None,
            "tries": json.dumps([each.as_record() for each in self.tries]),
            "facts": json.dumps(facts),
            "succeeded": self.succeeded,
            "cost_usd": facts["cost_usd"],
            "reserved_usd": 0.0 if over else self.reserved,
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
    generations: Sequence[Generation | Recorded]
    caller: Caller
    max_concurrent: int | None
    max_cost: float | None
    """USD."""
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
    def owner(self) -> str:
        return self.caller.id

    @property
    def has_ended(self) -> bool:
        return self.ended_at is not None

    @property
    def expected_cost(self) -> float:
        """USD that it has cost, and may still cost."""
        return sum(
            max(each.cost, each.reserved)
            if isinstance(each, Generation) and not each.has_ended
            else each.cost
            for each in self.generations
        )

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

    def result(self, view: View) -> dict[str, Any]:
        """What the caller is told once it has ended."""
        return {
            **self.summary(),
            "results": [self.item(index, view) for index in range(len(self.generations))],
        }

    def row(self) -> dict[str, Any]:
        """The whole of it, for the ledger (`tables.BATCHES`)."""
        return {
            "id": self.id,
            "caller": self.caller.id,
            "total": len(self.generations),
            "request": self.written,
            "max_concurrent": self.max_concurrent,
            "max_cost_usd": self.max_cost,
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


Work = Generation | Batch
"""What lives in this process, or did."""
