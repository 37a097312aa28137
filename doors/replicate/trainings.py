"""Trainings as Replicate's API shows them.

The output is the new version, with the address of the weights that this service keeps. Replicate's own address of them
is not shown: clients fetch it with their token, and it is gone after an hour.

Facts: Replicate's OpenAPI document, and the source of the official client at 1.0.7.
"""

from dataclasses import replace

from catalog.targets import Target
from contract.door_facts import facts_of
from contract.trainings import TrainingFacts, weights_path
from doors import REPLICATE_ROOT
from doors.replicate import states
from doors.replicate.predictions import HIDDEN
from doors.replicate.states import Body
from ledger.records import GenerationRecord


def training(record: GenerationRecord, address: str, *, logs: str | None = None) -> Body:
    """A training in any state. `address` is the base URL under which the caller reaches this service. `logs` are those
    of one that runs; its record has them when it has ended."""
    facts, call = TrainingFacts.read(record.door_facts), facts_of(record)
    target = Target.parse(record.model)
    here = f"{address}{REPLICATE_ROOT}/trainings/{record.id}"
    body: Body = {
        "id": record.id,
        "model": target.name,
        "version": record.version or target.version or HIDDEN,
        "destination": facts.destination,
        "input": dict(facts.input if call is None else call.input),
        "logs": (facts.logs if logs is None else logs) or "",
        "output": _output(record, address),
        "error": states.error(record),
        "status": states.status(record),
        **states.times(record),
        "urls": {"get": here, "cancel": f"{here}/cancel"},
        "source": "api",
    }
    return body if call is None or call.webhook is None else {**body, "webhook": call.webhook}


def created(record: GenerationRecord, address: str) -> Body:
    """The same in the answer to its creation: one that has not ended is starting."""
    return training(record if record.has_ended else replace(record, state="queued"), address)


def listed(record: GenerationRecord, address: str) -> Body:
    """A training in a list, without its logs."""
    body = training(record, address)
    return {name: value for name, value in body.items() if name != "logs"}


def _output(record: GenerationRecord, address: str) -> Body | None:
    """The new version, and the address of the kept weights, None if they are not kept."""
    if not (record.succeeded and record.outputs):
        return None
    made = record.outputs[0]
    weights = f"{address}{weights_path(record.id, record.files[0])}" if record.files else None
    return {"version": made.get("version"), "weights": weights}
