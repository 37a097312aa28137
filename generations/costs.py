"""What predictions cost: the estimate of one to come, the charge of one that has ended, and why one is refused.

A model without a price is billed for the seconds in which it runs, on hardware that is not known. It is estimated by
how long its latest predictions ran (`learned.py`). Reservations, budgets and `max_cost_usd` never use an estimate. They
always take the bound.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.adaptation import Step
from catalog.model import Model
from catalog.prices import NO_METRICS, weakest
from errors import BudgetExceeded
from ledger.records import PlanRecord
from parsing.shapes import BatchRequest, GenerationRequest
from providers import Prediction


@dataclass(frozen=True, slots=True)
class Estimate:
    """USD that work is expected to cost, the most that it may cost, and how the former is known."""

    usd: float
    bound: float
    basis: str

    @classmethod
    def of(cls, step: Step, longest: float, seconds: float | None) -> "Estimate":
        """One prediction that may take `longest` seconds, and whose model usually runs for so many `seconds`, if that
        is known."""
        model, sent = step.model, step.input
        bound = model.bound(sent, longest=longest)
        if not model.bills_running:
            return cls(model.cost(sent, longest=longest), bound, model.basis())
        if seconds is None:
            return cls(bound, bound, "bounded")
        return cls(model.cost(sent, metrics={"predict_time": seconds}, longest=longest), bound, "learned")

    @classmethod
    def total(cls, each: Sequence["Estimate"]) -> "Estimate":
        return cls(
            round(sum(one.usd for one in each), 6),
            round(sum(one.bound for one in each), 6),
            weakest((one.basis for one in each), "declared"),
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What work would take and cost if it were submitted now. Its plan has the expected cost."""

    plan: PlanRecord
    cost: Estimate


def charge(
    model: Model,
    sent: Mapping[str, Any],
    prediction: Prediction,
    *,
    made: int | None = None,
    longest: float,
) -> float:
    """USD that a prediction of this input has cost, of whose outputs `made` are images or videos. What cannot be known
    counts as the most that it may cost."""
    if not _is_billed(model, prediction):
        return 0.0
    outputs = None
    if prediction.has_succeeded:
        # A text instead of an image costs nothing if the price is per image, and the full price if it is per call.
        is_by_image = model.billing.per in {"image", "megapixel"}
        outputs = made if is_by_image else 1
    return model.cost(sent, outputs=outputs, metrics=measured(model, prediction), longest=longest)


def measured(model: Model, prediction: Prediction) -> Mapping[str, Any]:
    """What the provider has counted of a prediction, by which this model is billed."""
    if prediction.is_lost:
        return NO_METRICS  # it may still run
    if not model.bills_running:
        return prediction.metrics
    # Seconds from its creation to its end are more than it ran for. A model whose setup is billed pays for these.
    counted = {"total_time": prediction.seconds, **prediction.metrics}
    return {name: counted[name] for name in counted if name != "predict_time" or not model.bills_setup}


def _is_billed(model: Model, prediction: Prediction) -> bool:
    if prediction.may_be_billed:
        return True
    if not model.bills_running or not prediction.is_over:
        return False
    ran = prediction.started and model.bills_failures
    return prediction.status == "succeeded" or model.bills_setup or ran


def explained(
    refused: BudgetExceeded, request: GenerationRequest | BatchRequest, model: Model | None = None
) -> BudgetExceeded:
    """The same refusal, which also says why work without a price counts with so much."""
    each = request.requests if isinstance(request, BatchRequest) else [request]
    unpriced = next((one for one in each if _is_unpriced(model or one.model)), None)
    if unpriced is None:
        return refused
    model = model or unpriced.model
    return refused.with_detail(
        f"{refused.detail} {model.name} has no price, so each prediction counts as {unpriced.longest:g} s at "
        f"{model.running_usd:g} USD. Shorter timeouts lower this, and the operator can set a price in PRICES_FILE."
    )


def _is_unpriced(model: Model) -> bool:
    return model.price is None and model.bills_running
