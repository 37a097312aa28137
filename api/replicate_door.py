"""The routes of the door for Replicate's clients, below `/replicate/v1`, for predictions.

A creation becomes a generation, as from `POST /generate`. It is accepted at once and goes on without its caller, who
finds it again in the list. All functions run in a Flask thread, inside a request.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify, request

from api import incoming, replicate_outputs, request_files, roles
from auth import Caller
from contract.door_facts import REPLICATE, DoorFacts
from contract.ids import is_prediction_id, new_prediction_id
from doors import REPLICATE_ROOT
from doors.replicate import predictions
from doors.replicate.creation import Creation, read_creation, wait_seconds, with_files
from doors.replicate.pages import page_links, read_page, shown_on
from doors.replicate.states import shown_input
from errors import InvalidRequest, NotFound, Problem, QueueFull
from generations.submission import Submission
from ledger.records import GenerationRecord
from parsing.context import ParseContext
from parsing.generation import parse_generation
from service import Runtime

routes = Blueprint("replicate_door", __name__, url_prefix=REPLICATE_ROOT)


@routes.post("/predictions")
def create_prediction() -> tuple[Response, int]:
    """Create a prediction of the version that the body names."""
    return _created(None)


@routes.post("/models/<owner>/<name>/predictions")
def create_model_prediction(owner: str, name: str) -> tuple[Response, int]:
    """Create a prediction of a model that runs by its name."""
    return _created(f"{owner}/{name}")


@routes.post("/deployments/<owner>/<name>/predictions")
def create_deployment_prediction(owner: str, name: str) -> tuple[Response, int]:
    """Create a prediction of a deployment."""
    return _created(f"deployments/{owner}/{name}")


@routes.get("/predictions")
def list_predictions() -> Response:
    """The caller's generations as predictions, a hundred a page, the latest first."""
    return listed("/predictions", view=predictions.listed, training=False)


def listed(
    path: str, *, view: Callable[[GenerationRecord, str], Mapping[str, Any]], training: bool
) -> Response:
    """A page of the caller's trainings, or of its other generations, as the `view` shows each."""
    service, principal, address = incoming.service(), incoming.authenticate(), incoming.address()
    query = request.args.to_dict()
    page = replace(read_page(query, principal.id), training=training)
    found = service.loop.run(service.generations.page(page))
    links = page_links(page, found, query, f"{address}{REPLICATE_ROOT}{path}")
    return jsonify({**links, "results": [view(each, address) for each in shown_on(page, found)]})


@routes.get("/predictions/<target>")
def prediction(target: str) -> Response:
    """A prediction, with its output once there is one."""
    service, principal = incoming.service(), incoming.authenticate()
    work = service.loop.run(service.generations.get(_id_of(target), principal))
    record = service.loop.run(service.generations.record(work))
    return replicate_outputs.answer(predictions.prediction, record, principal.id)


@routes.post("/predictions/<target>/cancel")
def cancel_prediction(target: str) -> Response:
    """Cancel a prediction. One that has ended does not change."""
    service, principal = incoming.service(), roles.require_change()
    work = service.loop.run(service.generations.cancel(_id_of(target), principal, roles.actor()))
    record = service.loop.run(service.generations.record(work))
    return replicate_outputs.answer(predictions.prediction, record, principal.id)


def _created(target: str | None) -> tuple[Response, int]:
    service, caller = incoming.service(), incoming.require_payer()
    seconds = wait_seconds(request.headers.get("Prefer"))
    with _place(caller, waits=seconds > 0) as may_wait:
        submission = _submission(service, caller, target)
        # Not cancelled if the caller disconnects: it finds the prediction in the list.
        work = service.loop.run(service.generations.submit(submission))
        waited = service.generations.record(work, within=seconds if may_wait else 0.0)
        record = service.loop.run(waited, disconnect=incoming.connection())
    return replicate_outputs.answer(predictions.created, record, caller.id), 201


@contextmanager
def _place(caller: Caller, *, waits: bool) -> Iterator[bool]:
    """A place among the requests that hold a thread. Yields whether this one may wait for the end: if too many do, it
    is answered at once. Raises QueueFull if there is no place of any kind."""
    limits, retry_after = incoming.limits(), incoming.service().seconds_per_release
    first, second = (limits.waiting, limits.submitting) if waits else (limits.submitting, limits.waiting)
    try:
        leave = first.take(caller.turn, retry_after=retry_after)
        may_wait = waits
    except QueueFull:
        leave = second.take(caller.turn, retry_after=retry_after)
        may_wait = False
    try:
        yield may_wait
    finally:
        leave()


def _submission(service: Runtime, caller: Caller, target: str | None) -> Submission:
    """The submission of a creation. The body is released from memory on return."""
    address = incoming.address()
    with incoming.body(caller.turn) as body:
        creation = read_creation(body, target=target, cancel_after=request.headers.get("Cancel-After"))
        context = replace(incoming.context(creation.body, caller, by_id=True), lenient=True)
        upload_of = partial(request_files.uploaded, caller, field="input")
        sent = {**creation.body, "input": _with_uploads(creation, context, upload_of)}
        try:
            parsed = parse_generation(request_files.with_files(sent, context, caller), context)
        except InvalidRequest as invalid:
            raise _refusal(invalid, creation, is_named=target is not None) from None
        _check_outputs(service, parsed.model.output.kind)
        if not creation.gets_end:
            parsed = replace(parsed, webhook=None, given={**parsed.given, "webhook": None})
        secrets = context.secrets_in(parsed.model, creation.input)
        facts = _facts(creation, secrets)
        submission = incoming.submission(
            "gen", parsed, sent, context=context, caller=caller, address=address, key=None, seconds=0,
            work_id=new_prediction_id(),
        )  # fmt: skip
    return replace(submission, door=REPLICATE, door_facts=facts.as_json())


def _facts(creation: Creation, secrets: Set[str]) -> DoorFacts:
    return DoorFacts(
        target=creation.target,
        input=shown_input(creation.input, secrets),
        webhook=creation.webhook,
        webhook_events=creation.webhook_events,
        deadline=None if creation.deadline is None else time.time() + creation.deadline,
    )


def _with_uploads(creation: Creation, context: ParseContext, upload_of: Callable[[str], Any]) -> Any:
    """The input with the caller's uploaded files in place of their addresses, where the model takes files."""
    model = context.find(creation.target)
    return {
        name: value
        if model is not None and name in model.inputs.fields and not model.inputs.holds_files(name)
        else with_files(value, upload_of)
        for name, value in creation.input.items()
    }


def _check_outputs(service: Runtime, kind: str | None) -> None:
    """Raises InvalidRequest for a model that makes files, which this service could not hand out if it keeps none."""
    if service.files is None and kind not in {"text", "data"}:
        reason = "makes files, and this service keeps none (FILES_TTL=0), so it could not hand them out"
        raise InvalidRequest([Problem("version", reason)])


def _refusal(invalid: InvalidRequest, creation: Creation, *, is_named: bool) -> Exception:
    """The error of a creation that the parser refuses, with the fields of this door. Without a model, no other problem
    is known."""
    unknown = next((each for each in invalid.problems if each.field == "model_name"), None)
    if unknown is None:
        return invalid
    if is_named:
        return NotFound(f"{creation.target} {unknown.message}.")
    return InvalidRequest([Problem("version", unknown.message, creation.target)])


def _id_of(target: str) -> str:
    if not (is_prediction_id(target) or target.startswith("gen_")):
        raise NotFound("No prediction has this id.")
    return target
