"""Turns the end of a prediction into a success with outputs, or into the error that explains why there are none."""

from collections.abc import Iterable

from errors import ContentRefused, GenerationFailed, GenerationTimeout, Interrupted
from providers import Prediction, TryAgain


def raise_unless_made(prediction: Prediction) -> None:
    """Raise the error that a prediction's end stands for, unless it has outputs."""
    if prediction.status in {"succeeded", "processing"}:
        if not prediction.outputs and prediction.is_removed:
            raise Interrupted("It was made, but Replicate keeps outputs for an hour only, and we came later.")
        if not prediction.outputs:
            raise GenerationFailed("The model reported success and returned nothing.")
        return
    if prediction.status == "aborted":
        raise GenerationTimeout("Replicate did not start the prediction before its deadline.")
    if prediction.status == "canceled":
        cancelled = GenerationFailed("The prediction was cancelled at Replicate.")
        cancelled.falls_back = False  # it was cancelled on purpose
        raise cancelled
    detail = _first_line(prediction.error or "The model failed without saying why.")
    if prediction.cause == "content":
        raise ContentRefused(detail)
    if prediction.cause == "passing":
        raise TryAgain(GenerationFailed(detail))
    raise GenerationFailed(detail)


def _first_line(text: str) -> str:
    """Models put whole traces into their errors."""
    lines: Iterable[str] = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line), "The model failed.")[:300]
