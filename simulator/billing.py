"""Billing: what Replicate charges for a prediction once it has ended.

What succeeded is charged for what it put out; what was cancelled while it ran, for what it had been asked for. What
failed, never started or was aborted costs nothing, and neither does a success with nothing to show, since every price
is one of outputs. A text in place of a picture costs nothing by the picture, and all of a price by call or second. The
prices are the catalog's own: what a caller believes it spends can be held against them.
"""

from collections.abc import Mapping
from typing import Any

from simulator.catalog import Model


def charge(
    model: Model, given: Mapping[str, Any], *, status: str, started: bool, output: Any, pictures: int
) -> float:
    """USD for a prediction of `model` with the input `given`, rounded to millionths.

    Args:
        model: Which model ran.
        given: The input it was created with.
        status: How it ended; "processing" with an output is as good as succeeded.
        started: Whether it left "starting" before it ended.
        output: What came out: a list of texts, one text, or None.
        pictures: How many pictures or films are among it.
    """
    if status == "canceled" and started:
        pictures = model.requested_outputs(given)
    elif status not in ("succeeded", "processing") or output is None:
        return 0.0
    match model.price.per:
        case "image":
            amount: float = pictures
        case "second":
            amount = given.get("duration", model.default("duration"))
        case _:
            amount = 1
    return round(model.price.usd * amount, 6)
