"""Billing: the price that Replicate charges for a prediction once it has ended.

A success is charged for its outputs, and a prediction cancelled while running for the requested outputs. A failed or
aborted prediction costs nothing, nor does one that never started or that succeeded without output. A text in place of a
picture costs nothing at a price per image, and the full price per call or second. The prices are the catalog's own, so
that the service's prices can be checked against them.
"""

from collections.abc import Mapping
from typing import Any

from simulator.catalog import Model


def charge(
    model: Model, inputs: Mapping[str, Any], *, status: str, started: bool, output: Any, pictures: int
) -> float:
    """USD for a prediction of `model` with the input `inputs`, rounded to millionths.

    Args:
        model: The model that ran.
        inputs: The prediction's input.
        status: The status at its end. "processing" with an output counts as succeeded.
        started: Whether it left "starting" before it ended.
        output: A list of texts, one text, or None.
        pictures: The number of pictures or videos in `output`.
    """
    if status == "canceled" and started:
        pictures = model.requested_outputs(inputs)
    elif status not in ("succeeded", "processing") or output is None:
        return 0.0
    match model.price.per:
        case "image":
            amount: float = pictures
        case "second":
            amount = inputs.get("duration", model.default("duration"))
        case _:
            amount = 1
    return round(model.price.usd * amount, 6)
