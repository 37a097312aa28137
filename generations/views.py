"""The bodies of responses, made from records when a caller reads them.

A generation in memory and one in the ledger have the same record, so their bodies are the same. `address` is the base
URL under which the caller reaches this service; stored files are linked below it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from catalog.outputs import is_empty
from contract.states import State, iso8601
from contract.tasks import CHAT, MESSAGES, STORY, TASKS, TRUNCATED, task_of
from errors import ServiceError
from errors.calls import OutputInvalid
from errors.content import ContentRefused
from errors.listing import restored
from files import names
from generations.costs import Forecast
from ledger.records import AttemptRecord, BatchRecord, Delivery, Failure, GenerationRecord, PlanRecord
from parsing.shapes import GenerationRequest
from safety.judging import Verdict

Body = dict[str, Any]

NO_IDS: Final[Mapping[int, str]] = {}

_UNCHECKED: Final = "The token is not checked, since Replicate does not answer."


def generation(record: GenerationRecord, address: str) -> Body:
    """The result of a generation that has ended, or the state of one that has not."""
    if record.has_ended:
        return _result(record, address)
    return facts(record, address) | unfinished(record)


def unfinished(record: GenerationRecord) -> Body:
    """The fields that only unfinished work has."""
    body: Body = {"cost_bound_usd": max(record.cost_usd, record.reserved_usd)}
    if record.suspended_at is not None:
        body["waiting_for_owner_since"] = iso8601(record.suspended_at)
        if any(each.is_in_doubt for each in record.attempts):
            body["creation_in_doubt"] = True
    return body


def facts(record: GenerationRecord, address: str) -> Body:
    """The fields that a generation has in any state."""
    last = record.last_called
    body: Body = {
        "id": record.id,
        "status": record.state,
        "model_name": last.model if last else record.model,
        "requested_model": record.requested_model,
        "prompt": record.prompt or None,
        "prediction_id": record.prediction_id,
        "attempts": [_attempt(each) for each in record.attempts]
        if record.lists_attempts
        else len(record.attempts),
        "files": [_link(name, record, address) for name in record.files],
        "cost_usd": record.cost_usd,
        "cost_basis": record.cost_basis or "declared",
        "timing": {
            "queued": record.queued_seconds,
            "predicting": record.predicting_seconds,
            "total": record.total_seconds,
        },
        "created_at": iso8601(record.accepted_at),
        "simulated": record.simulated,
    }
    if record.kind is not None:
        body["kind"] = record.kind
    if record.file_name is not None:
        body["file_name"] = names.stem(record.file_name)
    if record.files_error is not None:
        body["files_error"] = record.files_error
    if record.batch_id is not None:
        body["batch_id"] = record.batch_id
    if record.semaphore is not None:
        body["external_semaphore_id"] = record.semaphore
    if record.has_secrets:
        body["survives_restart"] = False
    if last and last.changes and not record.lists_attempts:
        body["changes"] = list(last.changes)
    if record.warnings:
        body["warnings"] = list(record.warnings)
    if record.version is not None:
        body["version"] = record.version
    body |= _seed(last) | metadata(record.metadata) | call(record)
    return body | {"placeholder": True} if record.placeholder else body


def call(record: GenerationRecord) -> Body:
    """The fields of a call to a text model, empty for any other generation."""
    last = record.last_called
    task = task_of(record.door)
    if task is None or last is None or not last.is_call:
        return {}
    prompt, completion, thinking = last.prompt_tokens or 0, last.completion_tokens, last.thinking_tokens
    usage = None
    if completion is not None and thinking is not None:
        usage = {
            "prompt_tokens": prompt,
            "cached_tokens": last.cached_tokens or 0,
            "completion_tokens": completion,
            "thinking_tokens": thinking,
            "total_tokens": prompt + completion + thinking,
        }
    body: Body = {
        "model": record.requested_model,
        "model_version": last.model_version,
        "finish_reason": last.finish_reason,
        "usage": usage,
    }
    if TRUNCATED in record.warnings:
        body["truncated"] = True
    if record.succeeded:
        [output] = record.outputs or (None,)
        body |= {"response": output} if task == CHAT else {"data": output}
        body |= {"message": MESSAGES[task]} if task in MESSAGES else {}
        body |= {"warnings": list(record.warnings)} if task == STORY else {}
    return body


def call_totals(door: str | None, *, total: int, succeeded: int, failed: int) -> Body:
    """The counts of a batch of calls to text models, as its callers name them. Empty for any other batch."""
    if door not in TASKS:
        return {}
    return {"total_requests": total, "successful_requests": succeeded, "failed_requests": failed}


def metadata(text: str | None) -> Body:
    """The field of what the caller has attached, empty without any."""
    return {} if text is None else {"metadata": json.loads(text)}


def joined(ids: Mapping[int, str]) -> Body:
    """The field of the items that were there before a batch, by their places. Empty without any."""
    return {"joined": [{"index": place, "id": each} for place, each in sorted(ids.items())]} if ids else {}


def failure(record: Failure) -> Body:
    """The error of a generation, an attempt or an item of a batch."""
    body = {"code": record.code, "detail": record.detail, "retryable": record.retryable}
    return body if record.problems is None else body | {"errors": list(record.problems)}


def error(record: GenerationRecord) -> ServiceError | None:
    """The error to raise for a generation that failed."""
    if record.error is None:
        return None
    error = restored(_failure_of(record, record.error))
    error.may_be_paid = record.may_be_paid
    return error


def beside_error(record: GenerationRecord, address: str) -> Body:
    """The fields of a problem document about a generation that failed, beside its error."""
    about = {} if record.error is None else _about_failure(record, record.error)
    return facts(record, address) | about


def item(index: int, record: GenerationRecord, address: str) -> Body:
    """The result of one item of a batch."""
    return {"index": index, **_result(record, address)}


def webhook(delivery: Delivery) -> Body:
    """The state of the delivery to the caller's webhook."""
    return {
        "url": delivery.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": None if delivery.next_at is None else iso8601(delivery.next_at),
        "trouble": delivery.trouble,
        "delivered_at": None if delivery.delivered_at is None else iso8601(delivery.delivered_at),
    }


def plan(record: PlanRecord) -> Body:
    """The plan of a batch as it was when it was accepted."""
    return {
        "strategy": record.strategy,
        "estimated_seconds": round(record.seconds, 3),
        "estimated_cost_usd": record.cost_usd,
        "credits": record.credits,
    }


def forecast(total: int, found: Forecast, ids: Mapping[int, str] = NO_IDS) -> Body:
    """The expected duration and cost of a request for `total` generations, and the most that it may cost. Those with
    these `ids` are there already, and cost nothing."""
    return {
        "dry_run": True,
        "total": total,
        **plan(found.plan),
        "cost_bound_usd": found.cost.bound,
        "cost_basis": found.cost.basis,
        **joined(ids),
    }


def dry_run(request: GenerationRequest, found: Forecast, *, is_token_checked: bool) -> Body:
    """The forecast of a generation, and the input of its first model, without image contents. A token that is not
    checked is a warning, since a dry run may be what checks it."""
    first = request.first
    warnings = [*request.warnings, *([] if is_token_checked else [_UNCHECKED])]
    return {
        **forecast(1, found),
        "model_name": first.model.name,
        "requested_model": request.requested_model,
        "input": {
            name: _shown(value) if first.model.inputs.holds_files(name) else value
            for name, value in first.input.items()
        },
        "changes": [change.as_json() for change in first.changes],
        **({"warnings": warnings} if warnings else {}),
    }


def batch_status(states: Iterable[State], *, has_ended: bool) -> Body:
    """The status of a batch, and the number of its items in each state."""
    counts = Counter(states)
    status = "queued" if counts.get("queued") == counts.total() else "running"
    return {"status": "completed" if has_ended else status, "counts": dict(counts)}


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch in a list, with the number of its generations in each state and what these have cost."""

    record: BatchRecord
    states: Mapping[State, tuple[int, float]]


def listed_batch(listed: ListedBatch) -> Body:
    """A batch without its results."""
    record, states = listed.record, listed.states
    has_ended = record.ended_at is not None
    each_state = [state for state, (count, _) in states.items() for _ in range(count)]
    return {
        "id": record.id,
        "total": record.total,
        **batch_status(each_state, has_ended=has_ended),
        "actual_cost_usd": round(sum(usd for _, usd in states.values()), 6),
        "created_at": iso8601(record.accepted_at),
        "ended_at": iso8601(record.ended_at) if record.ended_at is not None else None,
        "simulated": record.simulated,
        **metadata(record.metadata),
    }


def _result(record: GenerationRecord, address: str) -> Body:
    body = {"success": record.succeeded, **facts(record, address)}
    if record.error is not None:
        return body | {"error": _failure_of(record, record.error)}
    # Outputs that are too large for an answer are in the last of the files.
    outputs = list(record.outputs) or body["files"][-1:]
    return body | {"output": outputs, "count": sum(not is_empty(each) for each in outputs)}


def _failure_of(record: GenerationRecord, error: Failure) -> Body:
    """The error of a generation, with the text that came, and when a used-up quota is free again."""
    return failure(error) | _about_failure(record, error)


def _about_failure(record: GenerationRecord, error: Failure) -> Body:
    body: Body = {}
    if record.verdict is not None and error.code == ContentRefused.code:
        verdict = Verdict.read(record.verdict)
        body |= {} if verdict.allow else {"stage": "before", "category": verdict.category}
    if record.text is not None:
        body["text" if error.code == OutputInvalid.code else "partial"] = record.text
    return body if record.resets_at is None else body | {"resets_at": record.resets_at}


def _seed(record: AttemptRecord | None) -> Body:
    """The field of the seed, empty if it is not known."""
    return {} if record is None or record.seed is None else {"seed": int(record.seed)}


def _attempt(record: AttemptRecord) -> Body:
    return {
        "model_name": record.model,
        "prediction_id": record.prediction_id,
        "error": record.error and failure(record.error),
        "changes": list(record.changes),
    }


def _shown(images: Any) -> Any:
    """Shows reference images without their content."""
    if isinstance(images, list):
        return [_shown(each) for each in images]
    head, comma, _ = str(images).partition(",")
    return f"{head}{comma}…" if head[:5].lower() == "data:" else str(images)


def _link(name: str, record: GenerationRecord, address: str) -> str:
    if name.startswith("data:"):
        return name
    wished = record.file_name
    query = "" if wished is None else names.link_query(wished, record.id, name)
    return f"{address}/files/{record.id}/{name}{query}"
