"""Billing: the price that Replicate charges for a prediction once it has ended.

A model with a price is billed by its outputs. A success is charged for what it made, and a prediction cancelled while
running for the requested outputs. A failed or aborted prediction costs nothing, nor does one that never started or that
succeeded without output. A text in place of a picture costs nothing at a price per image, and the full price per call
or second. The prices are the simulator's own, so that the service's prices can be checked against them.

Any other model is billed by the seconds that it ran, at the price of its hardware: a success, and what ran before a
cancellation. Its boot and its failures are free for a public model. A private model and a deployment pay for both, but
not a LoRA that was trained here.
Instances that wait for work are not billed here.

A training is billed by the seconds that it ran at the price of the trainer's hardware, also if it failed or was
cancelled.

Prices of hardware: replicate.com/pricing, mid-2025.
"""

import re
from dataclasses import dataclass
from typing import Any

from simulator.model import Deployment, Model, Version, requested_outputs

USD_PER_SECOND = {
    "cpu": 0.0001,
    "gpu-t4": 0.000225,
    "gpu-l40s": 0.000975,
    "gpu-a100-large": 0.0014,
    "gpu-h100": 0.001525,
}
"""One of them. The names of several are `gpu-h100-8x` and `gpu-8x-l40s`."""

USUAL_SECONDS = 5.0
"""The length of a film whose input leaves it to the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A prediction that has ended.

    Attributes:
        model: The model that ran, with its `version`, in a `deployment` or None.
        inputs: The prediction's input.
        status: The status at its end. "processing" with an output counts as succeeded.
        output: Its output.
        pictures: The number of pictures or films in the output.
        boot: Seconds from its creation to its start, or to its end if it never started.
        ran: Seconds from its start to its end. None if it never started.
    """

    model: Model
    version: Version
    deployment: Deployment | None
    inputs: Any
    status: str
    output: Any
    pictures: int
    boot: float
    ran: float | None


def charge(run: Run) -> float:
    """USD for a prediction, rounded to millionths."""
    return round(_by_time(run) if run.model.price is None else _by_output(run), 6)


def charge_by_time(hardware: str, seconds: float | None) -> float:
    """USD for so many seconds of this hardware, rounded to millionths. None costs 0."""
    return round(usd_per_second(hardware) * (seconds or 0.0), 6)


def usd_per_second(hardware: str) -> float:
    """The price of hardware by Replicate's name for it. That of an H100 if it is unknown."""
    found = re.search(r"-(\d+)x", hardware)
    single = hardware.replace(found[0], "", 1) if found else hardware
    return USD_PER_SECOND.get(single, USD_PER_SECOND["gpu-h100"]) * (int(found[1]) if found else 1)


def length(run_inputs: Any, version: Version) -> float:
    """The seconds of a film or sound that these inputs ask for."""
    asked = version.schema.value(run_inputs, "duration", "seconds")
    is_number = isinstance(asked, int | float) and not isinstance(asked, bool)
    return float(asked) if is_number and asked > 0 else USUAL_SECONDS


def _by_output(run: Run) -> float:
    price, schema = run.model.facts.price, run.version.schema
    pictures = run.pictures
    if run.status == "canceled" and run.ran is not None:
        pictures = requested_outputs(schema, run.inputs)
    elif run.status not in ("succeeded", "processing") or run.output is None:
        return 0.0
    if price is None:
        return 0.0
    amount = {"image": float(pictures), "call": 1.0, "second": length(run.inputs, run.version)}[price.per]
    return price.of(schema, run.inputs) * amount + (price.beside(run.inputs) if amount else 0.0)


def _by_time(run: Run) -> float:
    hardware = run.deployment.hardware if run.deployment else run.model.facts.hardware
    if run.deployment or (run.model.is_private and not run.model.facts.boots_fast):
        return usd_per_second(hardware) * (run.boot + (run.ran or 0.0))
    is_charged = run.status in ("succeeded", "processing", "canceled") and run.ran is not None
    return usd_per_second(hardware) * (run.ran or 0.0) if is_charged else 0.0
