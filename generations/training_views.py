"""The bodies of trainings, made from their records."""

from collections.abc import Mapping
from typing import Any

from contract.states import iso8601
from contract.trainings import TrainingFacts, weights_path
from generations import views
from generations.views import Body
from ledger.records import GenerationRecord
from parsing.shapes import GenerationRequest


def body_of(record: GenerationRecord, address: str) -> Body:
    """The body of a generation or a training, in any state."""
    return (training if record.is_training else views.generation)(record, address)


def training(record: GenerationRecord, address: str) -> Body:
    """A training in any state, with the end of its logs."""
    logs = TrainingFacts.read(record.door_facts).logs
    return listed(record, address) | ({} if logs is None else {"logs": logs})


def listed(record: GenerationRecord, address: str) -> Body:
    """A training in a list, which has no logs."""
    facts = TrainingFacts.read(record.door_facts)
    output: Mapping[str, Any] = record.outputs[0] if record.succeeded and record.outputs else {}
    body: Body = {
        "id": record.id,
        "status": record.state,
        "trainer": record.model,
        "version": record.version,
        "destination": facts.destination,
        "trigger_word": facts.trigger_word,
        "images": facts.images,
        "captions": facts.captions,
        "input": facts.input,
        "training_id": record.prediction_id,
        "model": output.get("version"),
        "weights": weights_link(record, address),
        "attempts": len(record.attempts),
        "estimated_cost_usd": facts.estimated_usd,
        "cost_usd": record.cost_usd,
        "cost_basis": record.cost_basis or "declared",
        "timing": {
            "queued": record.queued_seconds,
            "training": record.predicting_seconds,
            "total": record.total_seconds,
        },
        "created_at": iso8601(record.accepted_at),
        "simulated": record.simulated,
    }
    if record.has_ended:
        body = {"success": record.succeeded, **body}
    else:
        body |= views.unfinished(record)
    if record.has_secrets:
        body["survives_restart"] = False
    if record.warnings:
        body["warnings"] = list(record.warnings)
    if record.error is not None:
        body["error"] = views.failure(record.error)
    return body | views.metadata(record.metadata)


def weights_link(record: GenerationRecord, address: str) -> str | None:
    """The address of the kept weights, None if there are none."""
    if not (record.succeeded and record.files):
        return None
    return f"{address}{weights_path(record.id, record.files[0])}"


def dry_run(request: GenerationRequest, facts: TrainingFacts, *, destination_exists: bool) -> Body:
    """The forecast of a training: its parts and its cost if it were submitted now."""
    body: Body = {
        "dry_run": True,
        "trainer": request.model.name,
        "version": request.model.version,
        "destination": facts.destination,
        "destination_exists": destination_exists,
        "trigger_word": facts.trigger_word,
        "images": facts.images,
        "captions": facts.captions,
        "input": facts.input,
        "estimated_seconds": facts.estimated_seconds,
        "estimated_cost_usd": facts.estimated_usd,
        "cost_bound_usd": request.bound,
    }
    return body | ({"warnings": list(request.warnings)} if request.warnings else {})
