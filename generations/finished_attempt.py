"""An attempt of an earlier process, in its record."""

from dataclasses import dataclass

from catalog.model import Model
from catalog.prices import Basis
from ledger.records import AttemptRecord


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
        return self.model.basis()

    @property
    def passed_over(self) -> bool:
        return self.kept.passed_over

    def record(self, generation_id: str, number: int) -> AttemptRecord:  # noqa: ARG002 - as `Attempt` has it
        return self.kept
