"""What is known of one try of one model: while it is made, and once it is over, in this process or one before.

Dates are Unix times, since they outlive the process.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from catalog.adaptation import Change
from catalog.model import Model
from errors import OutcomeUnknown, ServiceError
from providers import Prediction
from telling import Row


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
    is_lost: bool = False
    """Whether it could not be asked what became of it."""

    def __post_init__(self) -> None:
        self.sent = self.input

    @property
    def prediction_id(self) -> str | None:
        return self.prediction.id if self.prediction else None

    @property
    def cost(self) -> float:
        """USD. Replicate bills what was made, and what was cancelled after it had begun; no failure. What cannot be
        known counts as billed."""
        if self.prediction is None:
            is_unknown = self.is_lost or isinstance(self.error, OutcomeUnknown)
            return self.model.cost(self.sent) if is_unknown else 0.0
        if self.prediction.is_made:
            return self.model.cost(self.sent, outputs=len(self.prediction.outputs))
        was_cut_short = self.prediction.status == "canceled" and self.prediction.started
        was_removed = self.prediction.status == "succeeded" and self.prediction.is_removed
        may_be_billed = was_cut_short or was_removed or self.prediction.is_lost
        return self.model.cost(self.sent) if may_be_billed else 0.0

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
