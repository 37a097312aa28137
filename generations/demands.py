"""The demands of calls at their gate."""

from admission.metered.demand import Demand
from auth import Caller
from catalog.adaptation import Step
from catalog.texts.runnable import CallModel


def demand_of(
    step: Step,
    caller: Caller,
    *,
    batch: str | None,
    at_once: int | None,
    semaphore: str | None,
    tokens: int | None = None,
) -> Demand:
    """The most that a call needs. So many of its batch may run `at_once`. Its prompt has at most `tokens`, None before
    its images are fetched and its tokens are counted."""
    model = step.model
    assert isinstance(model, CallModel)  # noqa: S101 - only its calls are metered
    if tokens is None:
        tokens = model.tokens_bound(step.input)
    return Demand(
        caller=caller.turn,
        account=caller.account,
        model=model.target,
        tokens=tokens,
        micro_usd=model.bound_of(step.input, tokens),
        batch=batch,
        max_concurrent=at_once,
        semaphore=semaphore,
    )
