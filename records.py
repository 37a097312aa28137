"""What is known of a generation and of a batch: their states, their attempts, and how they are told to a caller."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import download_names
from adaptation import Change
from auth import Caller
from errors import ServiceError
from intake.shapes import GenerationRequest
from planning import Plan
from providers import Prediction
from registry import Model

State = Literal["queued", "submitting", "running", "succeeded", "failed", "canceled"]


@dataclass(frozen=True, slots=True)
class View:
    """What an answer depends on beside what happened: whether all is simulated, and the address that this service's
    files are reached by."""

    simulated: bool
    address: str


@dataclass(eq=False, slots=True)
class Attempt:
    """One try of one model: one admission, and one prediction at the most."""

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

    def __post_init__(self) -> None:
        self.sent = self.input

    @property
    def cost(self) -> float:
        """USD. Replicate bills what was made, and what was cancelled after it had begun; no failure."""
        if self.prediction is None:
            return 0.0
        if self.prediction.is_made:
            return self.model.cost(self.sent, outputs=len(self.prediction.outputs))
        was_cut_short = self.prediction.status == "canceled" and self.prediction.started
        return self.model.cost(self.sent) if was_cut_short else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "model_name": self.model.name,
            "prediction_id": self.prediction and self.prediction.id,
            "error": self.error and self.error.as_item(),
            "changes": [change.as_json() for change in self.changes],
        }


@dataclass(eq=False, slots=True)
class Generation:
    """One generation, from acceptance to its end. Times are the loop's, in seconds."""

    id: str
    request: GenerationRequest
    caller: Caller
    request_id: str
    accepted_at: float
    state: State = "queued"
    tries: list[Attempt] = field(default_factory=list)
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

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    @property
    def attempts(self) -> int:
        return len(self.tries)

    @property
    def model(self) -> Model:
        """The model that ran last, or that would have been the first."""
        return self.tries[-1].model if self.tries else self.request.model

    @property
    def prediction(self) -> Prediction | None:
        return self.tries[-1].prediction if self.tries else None

    @property
    def cost(self) -> float:
        """USD, over all attempts."""
        return round(sum(attempt.cost for attempt in self.tries), 6)

    def result(self, view: View) -> dict[str, Any]:
        """What the caller is told once it has ended."""
        told = {"success": self.succeeded, **self.told(view)}
        if self.error is not None:
            return told | {"error": self.error.as_item()}
        outputs = self.prediction.outputs if self.prediction else ()
        return told | {"output": list(outputs), "count": len(outputs)}

    def told(self, view: View) -> dict[str, Any]:
        """What is told of it however it ended, beside an error too."""
        told: dict[str, Any] = {
            "id": self.id,
            "status": self.state,
            "model_name": self.model.name,
            "requested_model": self.request.requested_model,
            "prompt": self.request.prompt,
            "prediction_id": self.prediction.id if self.prediction else None,
            "attempts": [each.as_json() for each in self.tries] if self.request.route else self.attempts,
            "files": [self._link(name, view) for name in self.files],
            "cost_usd": self.cost,
            "timing": {name: round(seconds, 3) for name, seconds in self._timing().items()},
            "simulated": view.simulated,
        }
        if self.files_error is not None:
            told["files_error"] = self.files_error
        if self.placeholder:
            told["placeholder"] = True
        return told

    def _link(self, name: str, view: View) -> str:
        if name.startswith("data:"):
            return name
        wished = self.request.file_name
        query = "" if wished is None else download_names.link_query(wished, int(name.partition(".")[0]))
        return f"{view.address}/files/{self.id}/{name}{query}"

    def _timing(self) -> dict[str, float]:
        end = self.accepted_at if self.ended_at is None else self.ended_at
        return {"queued": self.queued, "predicting": self.predicting, "total": end - self.accepted_at}


@dataclass(eq=False, slots=True)
class Batch:
    """Generations that were asked for together, in input order, and how it was thought to go. Times are the loop's."""

    id: str
    generations: list[Generation]
    max_concurrent: int | None
    plan: Plan
    accepted_at: float
    ended_at: float | None = None

    def summary(self) -> dict[str, Any]:
        succeeded = sum(generation.succeeded for generation in self.generations)
        total = len(self.generations)
        took = 0.0 if self.ended_at is None else self.ended_at - self.accepted_at
        return {
            "success": succeeded == total,
            "id": self.id,
            "total": total,
            "succeeded": succeeded,
            "failed": total - succeeded,
            **self.plan.as_json(),
            "actual_seconds": round(took, 3),
            "actual_cost_usd": round(sum(generation.cost for generation in self.generations), 6),
        }

    def item(self, index: int, view: View) -> dict[str, Any]:
        return {"index": index, **self.generations[index].result(view)}
